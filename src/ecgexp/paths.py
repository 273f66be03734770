"""Folders that a command writes to. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

from ecgexp.errors import UserError

# Keys of a dataset that say where data lie and how they are read, not which ones they are.
PLACES = ("root", "cache_dir", "labels_csv", "on_bad_record", "workers")


def database_file(root: str | Path) -> Path:
    """The database of the local store below a folder; beside it lie artifacts, checkpoints and locks.

    Links are followed, so that two folders that lead to one store agree on where it is.

    Raises
    ------
    UserError
        Where the path cannot be written as text, or is a link to nothing.
    """
    path = Path(root).expanduser() / "mlruns" / "mlflow.db"
    found = path.resolve()
    check_name(found)
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path.absolute()} is a link to {found}, which is not there: bring it back, or remove the link."
        )
    return found


def check_name(path: str | Path) -> None:
    """Refuse a path that the tools which are given it cannot read back.

    Raises
    ------
    UserError
        Where it has bytes that are no UTF-8, or ``${``, which Hydra replaces.
    """
    text = str(path)
    if "${" in text:
        raise UserError(f"The path {text} contains '${{', which Hydra reads as an interpolation: rename the folder.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"The path {text.encode(errors='replace').decode()} is not UTF-8: rename the folder.") from None


def check_address(uri: str | None) -> None:
    """Refuse a ``tracking.uri`` without a scheme, of which nobody could tell what is its password.

    Raises
    ------
    UserError
        Which does not repeat it.
    """
    if uri and "@" in uri and "://" not in uri:
        raise UserError(
            "Config key 'tracking.uri' has no scheme: write what kind of store it is, such as http://HOST:PORT or "
            "postgresql://HOST/DATABASE."
        )


def check_writable(folder: Path, key: str) -> None:
    """Refuse a folder that can be neither written to nor made. Makes nothing.

    Parameters
    ----------
    folder : Path
        Where files are to be put.
    key : str
        Key of the configuration that chooses it, for the sentence.

    Raises
    ------
    UserError
        Naming what stands in its place or keeps it from being made.
    """
    for path in (folder, *folder.absolute().parents):
        name = "it" if path == folder else str(path)
        if path.is_dir():
            if os.access(path, os.W_OK | os.X_OK):
                return
            problem = f"{name} is read-only for this user"
        elif path.is_symlink():
            problem = f"{name} is a link to {path.readlink()}, which is not there"
        elif path.exists():
            problem = f"{name} is a file"
        else:
            continue
        raise UserError(
            f"The folder {folder} cannot be written: {problem}. Change that, or set {key} to another folder."
        )
