"""The SQLite file: opening it, and bringing its tables up to date. Imports nothing but the standard library."""

from __future__ import annotations

import sqlite3
from importlib import resources
from pathlib import Path

from fcd.errors import FcdError

_BUSY_TIMEOUT_MS = 10_000


def open_database(path: Path) -> sqlite3.Connection:
    """A connection with every migration applied; what it commits survives a power cut.

    Raises:
        FcdError: the file cannot be opened, is no database, or was written by a newer fcd.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            path.chmod(0o600)
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise FcdError(
            f"The database {path} cannot be opened: {error}",
            hint="Check the disk and the file's owner; a damaged file can be moved away, and a new one is made.",
        ) from error
    return connection


def migrations() -> list[tuple[int, str]]:
    """Number and SQL of each migration, in order."""
    folder = resources.files("daemon.store") / "migrations"
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(int(name.split("_", 1)[0]), file.read_text(encoding="utf-8")) for name, file in files]


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    known = migrations()
    newest = known[-1][0]
    current = _version(connection)
    if current > newest:
        raise FcdError(
            f"The database {path} has schema version {current}, but this fcd knows only up to {newest}.",
            hint="It was written by a newer fcd: upgrade this one.",
        )
    for number, sql in known:
        if number > current:
            _apply(connection, number, sql)


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _apply(connection: sqlite3.Connection, number: int, sql: str) -> None:
    """One migration and its number in one transaction; another process may have been faster."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) < number:
            for statement in _statements(sql):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number:d}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """The script's single statements: executescript would commit between them."""
    found, current = list[str](), ""
    for piece in script.split(";")[:-1]:
        current += f"{piece};"
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    rest = current + script.rpartition(";")[2]
    if any(line.strip() and not line.lstrip().startswith("--") for line in rest.splitlines()):
        raise ValueError(f"a migration ends in an unfinished statement: {rest.strip()[:80]}")
    return found
