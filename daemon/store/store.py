"""The database as the daemon uses it: one thread owns the connection, and the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from daemon.store.database import open_database

T = TypeVar("T")


class Store:
    """Runs functions of a connection, one after another, on the thread that owns it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    @classmethod
    def open(cls, path: Path) -> Store:
        """Raises FcdError when the file cannot be used."""
        return cls(open_database(path))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` in one transaction; when this returns, what it wrote is on disk.

        A caller that is cancelled does not undo `work`: it runs to its end.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._in_transaction, work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return in_transaction(self._connection, work)


def in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Everything that `work` writes, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        value = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has undone it already
            connection.execute("ROLLBACK")
        raise
    return value
