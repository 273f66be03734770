"""Folders that a command writes to. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

from ecgexp.errors import UserError

# Keys of a dataset that say where its data are and how to read them, but not which data they are.
PLACES = ("root", "file", "cache_dir", "labels_csv", "on_bad_record", "workers")


def database_file(root: str | Path) -> Path:
    """The database of the local store below a folder; artifacts, checkpoints and locks are beside it.

    Links are resolved, so that two folders that lead to the same store give the same path.

    Raises
    ------
    UserError
        If the path is not UTF-8, or is a link to a missing file.
    """
    path = Path(root).expanduser() / "mlruns" / "mlflow.db"
    found = path.resolve()
    check_name(found)
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path.absolute()} is a link to {found}, which does not exist: restore that file, or remove the link."
        )
    return found


def check_name(path: str | Path) -> None:
    """Refuse a path that MLflow or Hydra would misread.

    Raises
    ------
    UserError
        If it is not UTF-8, or contains ``${``, which Hydra replaces.
    """
    text = str(path)
    if "${" in text:
        raise UserError(f"The path {text} contains '${{', which Hydra reads as an interpolation: rename the folder.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"The path {text.encode(errors='replace').decode()} is not UTF-8: rename the folder.") from None


def check_address(uri: str | None) -> None:
    """Refuse a ``tracking.uri`` without a scheme, since the password in it could not be recognised.

    Raises
    ------
    UserError
        The message does not repeat the address.
    """
    if uri and "@" in uri and "://" not in uri:
        raise UserError(
            "Config key 'tracking.uri' has no scheme: begin it with the kind of store, such as http://HOST:PORT or "
            "postgresql://HOST/DATABASE."
        )


def check_writable(folder: Path, key: str) -> None:
    """Refuse a folder that cannot be written or created. Creates no folder.

    Parameters
    ----------
    folder : Path
        The folder for the files.
    key : str
        Config key that sets it, for the message.

    Raises
    ------
    UserError
        The message names the reason.
    """
    for path in (folder, *folder.absolute().parents):
        name = "it" if path == folder else str(path)
        if path.is_dir():
            if os.access(path, os.W_OK | os.X_OK):
                return
            problem = f"{name} is read-only for this user"
        elif path.is_symlink():
            problem = f"{name} is a link to {path.readlink()}, which does not exist"
        elif path.exists():
            problem = f"{name} is a file"
        else:
            continue
        raise UserError(
            f"The folder {folder} cannot be written: {problem}. Change that, or set {key} to another folder."
        )
