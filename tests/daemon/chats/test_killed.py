"""kill -9 in the middle of an answer: the question and all but about a second of the answer are there afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from daemon.store.database import open_database
from fcd.client import Address, Client
from fcd.wire.chats import CreateChat, GenerateRequest
from tests.daemon.arena.harness import Script, arena_daemon
from tests.daemon.harness import run

ROOT = Path(__file__).resolve().parents[3]
PIECE, PAUSE = 10, 0.01
SERVE = f"""
import asyncio, json
from pathlib import Path
from tests.daemon.arena.harness import Script, arena_daemon

async def main(home):
    models = {{"guide": Script(text="word " * 20000, piece={PIECE}, pause={PAUSE})}}
    async with arena_daemon(models, home=Path(home)) as daemon:
        print(json.dumps([daemon.url, daemon.client.address.api_key]), flush=True)
        await asyncio.Event().wait()

import sys
asyncio.run(main(sys.argv[1]))
"""


def start(home: Path) -> tuple[subprocess.Popen[str], Address]:
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(home)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    url, key = json.loads(process.stdout.readline())
    return process, Address(url, key)


def test_kill_9_loses_about_a_second_and_nothing_acknowledged(tmp_path: Path) -> None:
    process, address = start(tmp_path)
    seen, stamps = "", list[tuple[float, int]]()

    async def watch() -> tuple[str, str]:
        nonlocal seen
        async with Client(address) as client:
            chat = (await client.create_chat(CreateChat("guide"))).id
            made = await client.generate(chat, GenerateRequest("Go on."))
            async with asyncio.timeout(30):
                async for event in client.chat_stream(chat, made.answer.id):
                    seen += (event.message.content if event.message is not None else "") + event.text
                    stamps.append((time.monotonic(), len(seen)))
                    if stamps[-1][0] - stamps[0][0] > 2.5:
                        break
            return chat, made.answer.id

    try:
        chat, answer = asyncio.run(watch())
    finally:
        os.kill(process.pid, signal.SIGKILL)
        killed = time.monotonic()
        process.wait()
    two_seconds_before = max(size for at, size in stamps if at < killed - 2.0)
    db = open_database(tmp_path / "data" / "fcd.db")
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert db.execute("SELECT content FROM chat_messages WHERE role = 'user'").fetchone()[0] == "Go on."
    db.close()

    async def look() -> None:
        async with arena_daemon({"guide": Script()}, home=tmp_path) as daemon:
            tree = await daemon.client.chat_tree(chat)
            last = tree.messages[-1]
            assert (last.id, last.state, tree.chat.running) == (answer, "interrupted", "")
            assert len(last.content) >= two_seconds_before > 0
            assert "word word".startswith(last.content[:9])
            assert [hit.chat.id for hit in (await daemon.client.search_chats("word")).hits] == [chat]
            events = [each async for each in daemon.client.chat_stream(chat, answer, f"0.{len(seen) + 10**6}")]
            assert [each.type for each in events] == ["message", "end"], "what was seen and lost is taken back"

    run(look())
