"""The database: what was answered is on disk, migrations are whole, and keys are only digests."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.store import credentials, database
from daemon.store.database import migrations, open_database
from daemon.store.store import Store
from fcd.errors import FcdError, NotFound


def test_a_new_file_gets_every_migration_once(tmp_path: Path) -> None:
    path = tmp_path / "fcd.db"
    numbers = [number for number, _ in migrations()]
    assert numbers == sorted(set(numbers))
    for _ in range(2):
        connection = open_database(path)
        assert connection.execute("PRAGMA user_version").fetchone()[0] == numbers[-1]
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
        connection.close()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fcd.db"
    bad = [*migrations(), (9999, "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);")]
    monkeypatch.setattr(database, "migrations", lambda: bad)
    with pytest.raises(FcdError, match="nowhere"):
        open_database(path)
    monkeypatch.undo()
    connection = open_database(path)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert "half" not in tables
    assert "credentials" in tables
    connection.close()


def test_a_newer_or_damaged_file_is_refused_with_a_next_step(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 12345")
    connection.close()
    with pytest.raises(FcdError, match="12345") as caught:
        open_database(newer)
    assert "upgrade" in caught.value.hint
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"this is no database" * 100)
    with pytest.raises(FcdError, match="cannot be opened"):
        open_database(damaged)


def test_work_that_fails_is_undone(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path / "fcd.db")

        def half(db: sqlite3.Connection) -> None:
            credentials.create(db, "key", name="a", scope="inference", now=1.0)
            raise RuntimeError

        with pytest.raises(RuntimeError):
            await store.run(half)
        assert await store.run(credentials.load) == []
        await store.close()

    asyncio.run(main())


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path / "fcd.db")
        work = [
            store.run(lambda db, n=n: credentials.create(db, "key", name=str(n), scope="inference", now=float(n)))
            for n in range(50)
        ]
        made = await asyncio.gather(*work)
        assert {info.id for _, info in made} == {row.info.id for row in await store.run(credentials.load)}
        await store.close()

    asyncio.run(main())


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, pathlib
from daemon.store import credentials
from daemon.store.store import Store
async def main():
    store = Store.open(pathlib.Path({str(tmp_path / "fcd.db")!r}))
    for n in range(1000):
        secret, info = await store.run(lambda db: credentials.create(db, "key", name="", scope="inference", now=1.0))
        os.write(1, (info.id + "\\n").encode())
asyncio.run(main())
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    answered = [child.stdout.readline().strip() for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    answered += [line.strip() for line in child.stdout.read().splitlines()]
    child.wait()
    connection = open_database(tmp_path / "fcd.db")
    kept = {row.info.id for row in credentials.load(connection)}
    assert set(answered) <= kept
    connection.close()


def test_secrets_match_themselves_only(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "fcd.db")
    secret, info = credentials.create(connection, "key", name="a", scope="admin", now=100.0, ttl_s=10.0)
    (row,) = credentials.load(connection)
    assert credentials.id_of(secret) == info.id
    assert row.matches(secret, now=105.0)
    assert not row.matches(secret, now=110.0)
    assert not row.matches(secret[:-1], now=105.0)
    assert not row.matches("", now=105.0)
    for odd in ("", "fcd", "fcd-k", "sk-1234", "fcd-k-zz", "\ud800", "a-b-c-d"):
        assert credentials.id_of(odd) != info.id
    connection.close()


def test_revoking_by_a_name_that_several_have_asks_for_the_id(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "fcd.db")
    for _ in range(2):
        credentials.create(connection, "token", name="box", scope="join", now=1.0)
    with pytest.raises(NotFound, match="give an id"):
        credentials.revoke(connection, "token", "box", 2.0)
    first = credentials.load(connection, "token")[0].info
    assert credentials.revoke(connection, "token", first.id, 2.0).id == first.id
    with pytest.raises(NotFound):
        credentials.revoke(connection, "key", "box", 2.0)
    assert len(credentials.load(connection)) == 1
    connection.close()


def test_the_store_is_read_without_sanic() -> None:
    code = "import sys, daemon.store.store, daemon.store.credentials; sys.exit('sanic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
