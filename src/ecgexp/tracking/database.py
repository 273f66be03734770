"""The SQLite database of a local store: checks that it is intact, and corrects the place of its artifacts."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from ecgexp.errors import UserError

logger = logging.getLogger(__name__)

# Columns in which MLflow stores the place of artifacts, as URIs.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_WAIT = 60.0  # seconds to wait for another process that writes


def check_database(database: Path) -> None:
    """Refuse a database that is damaged.

    Raises
    ------
    UserError
        The message says what is lost and what is not.
    """
    try:
        with closing(_connect(database)) as connection:
            intact = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
            empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.OperationalError as error:  # for example, it is not a file, or is not readable
        raise UserError(f"The database {database} cannot be opened: {error}.") from error
    except sqlite3.DatabaseError:
        intact = empty = False
    if empty or not intact:
        raise damaged(database)


def damaged(database: Path | str) -> UserError:
    """The error about a database that cannot be read."""
    return UserError(
        f"The database {database} is damaged: put a copy of it back, or save what can be read with the command "
        "sqlite3 and its .recover. Where there is no copy, move it away: trials are then trained again, and the files "
        "of the earlier ones stay in the folder artifacts beside it."
    )


def settle(database: Path) -> None:
    """Correct the place of artifacts in a database that was moved or copied, and log one line about it.

    Only URIs in the earlier folder of the database are changed. A read-only database is left unchanged.
    """
    here = database.parent
    with closing(_connect(database)) as connection:
        try:
            places = _earlier_places(connection, here)
        except sqlite3.OperationalError as error:  # intact, but a table of MLflow is missing
            raise damaged(database) from error
        if not places:
            return
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        try:
            connection.execute("BEGIN IMMEDIATE")
            for earlier in places:
                for table, column in _LOCATIONS:
                    if table in tables:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                            (f"{here.as_uri()}/", len(earlier) + 2, len(earlier) + 1, f"{earlier}/"),
                        )
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:  # closing the connection rolls the changes back
            logger.warning("The database %s still names artifacts below %s: %s.", database, ", ".join(places), error)
            return
        runs = {run for (run,) in connection.execute("SELECT run_uuid FROM runs")}
    for earlier in places:
        place = _path(earlier)
        left = len(runs & _names(place / "artifacts") - _names(here / "artifacts"))
        files = f" Copy the files of {left} runs from {place / 'artifacts'} to {here / 'artifacts'}." if left else ""
        logger.warning("The store was in %s: from now on its artifacts are those in %s.%s", place, here, files)


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=rw", timeout=_WAIT, isolation_level=None, uri=True)


def _earlier_places(connection: sqlite3.Connection, here: Path) -> list[str]:
    """URIs of earlier folders of the store, as its experiments name them."""
    locations = {location or "" for (location,) in connection.execute("SELECT artifact_location FROM experiments")}
    found = []
    for location in sorted(locations):
        place, _, name = location.rpartition("/")
        # The experiment 'Default' is created together with the database, so its folder is beside the database.
        own = place.endswith("/mlruns") or f"{place}/0" in locations
        if name == "artifacts" and own and place.startswith("file:///") and not _is_same(_path(place), here):
            found.append(place)
    return found


def _path(uri: str) -> Path:
    return Path(url2pathname(urlparse(uri).path))


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError:
        return set()
