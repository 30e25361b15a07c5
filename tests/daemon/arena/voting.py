"""Votes into a daemon that is killed: run as a program, prints what was lost as JSON.

Each trial is a fresh process with the real server, store and arena on one database; four clients vote over sockets
until it is killed with SIGKILL. Then every vote that was answered with 200 must be in the file, with its turns.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

from daemon.arena import records
from daemon.arena.records import StoredAnswer, StoredBattle, StoredTurn
from daemon.lifecycle import Server, bind, open_context, url_of
from daemon.store.database import open_database
from daemon.store.store import in_transaction
from fcd.paths import resolve_paths
from fcd.settings import Settings
from tests.daemon.arena.harness import ManyModels

_VOTERS = 4
_PER_TRIAL = 120
OUTCOMES = ("a", "b", "tie", "both_bad")


def make_battles(database: Path, count: int) -> list[str]:
    stored = [
        StoredBattle(records.new_id(), time.time(), "blind", "person", "red", "blue", owner="local", voter="local")
        for _ in range(count)
    ]
    turn = StoredTurn("Hi?", StoredAnswer("One.", "done"), StoredAnswer("Two.", "done"))

    def write(db: sqlite3.Connection) -> None:
        for battle in stored:
            records.add_battle(db, battle)
            records.put_turn(db, battle.id, 0, turn)

    connection = open_database(database)
    in_transaction(connection, write)
    connection.close()
    return [battle.id for battle in stored]


def serve(home: str, ready: int) -> None:
    """The daemon, until it is killed."""

    async def main() -> None:
        paths = resolve_paths({"FCD_HOME": home})
        listener = bind("127.0.0.1", 0)
        context = await open_context(Settings(), paths, url_of(listener), lambda _: ManyModels({}))  # type: ignore[arg-type,return-value]
        await Server(context, listener).start()
        os.write(ready, f"{listener.getsockname()[1]}\n".encode())
        await asyncio.Event().wait()

    asyncio.run(main())


def vote_all(port: int, battles: list[str], acknowledged: dict[str, str]) -> None:
    """Until the connection breaks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for battle in battles:
        outcome = random.choice(OUTCOMES)
        try:
            body = json.dumps({"outcome": outcome, "reveal": random.random() < 0.5})
            connection.request("POST", f"/api/battles/{battle}/vote", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                acknowledged[battle] = outcome
        except (OSError, http.client.HTTPException):
            return


def trial(home: str, battles: list[str], acknowledged: dict[str, str]) -> None:
    """One life of a daemon."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            serve(home, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        port = int(pipe.readline())
    before = len(acknowledged)
    threads = [
        threading.Thread(target=vote_all, args=(port, battles[part::_VOTERS], acknowledged)) for part in range(_VOTERS)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while len(acknowledged) == before and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for thread in threads:
        thread.join()


def main() -> None:
    home, trials = sys.argv[1], int(sys.argv[2])
    paths = resolve_paths({"FCD_HOME": home})
    paths.create()
    acknowledged: dict[str, str] = {}
    lost = half = 0
    for _ in range(trials):
        trial(home, make_battles(paths.database, _PER_TRIAL), acknowledged)
        db = sqlite3.connect(paths.database)
        kept = dict(db.execute("SELECT battle, outcome FROM votes").fetchall())
        db.close()
        lost += sum(kept.get(battle) != outcome for battle, outcome in acknowledged.items())
    db = open_database(paths.database)
    half = db.execute(
        "SELECT count(*) FROM votes LEFT JOIN turns ON turns.battle = votes.battle AND turns.turn = 0"
        " WHERE turns.battle IS NULL OR votes.turns <> 1 OR votes.tokens_a = 0"
    ).fetchone()[0]
    rows, voted = db.execute("SELECT count(*), count(DISTINCT battle) FROM votes").fetchone()
    sound = db.execute("PRAGMA integrity_check").fetchone()[0]
    print(
        json.dumps(
            {
                "acknowledged": len(acknowledged),
                "kept": rows,
                "twice": rows - voted,
                "lost": lost,
                "half": half,
                "file": sound,
            }
        )
    )


if __name__ == "__main__":
    main()
