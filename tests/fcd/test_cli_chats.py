"""`fcd chats` against a real daemon's routes: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from fcd.cli.chats import parts_of
from fcd.cli.main import main
from fcd.errors import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_NOT_RUNNING, EXIT_OK, EXIT_USAGE
from fcd.wire.chats import LogMessage, PutLog
from tests.daemon.arena.harness import Script, arena_daemon

RIVERS = PutLog("guide", messages=[LogMessage("user", "Where are otters?"), LogMessage("assistant", "In **rivers**.")])


def fcd(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; run in a thread, because it has a loop of its own."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
        out.flush()
    return code, out.buffer.getvalue().decode(), err.getvalue()  # type: ignore[attr-defined]


def play(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with arena_daemon({"guide": Script()}) as daemon:
            monkeypatch.setenv("FCD_URL", daemon.url)
            monkeypatch.setenv("FCD_API_KEY", daemon.client.address.api_key)
            await daemon.client.put_chat_log("20260101-000000-aaa", RIVERS)
            await daemon.client.put_chat_log("20260101-000000-aab", PutLog(messages=[LogMessage("user", "Bread?")]))
            await asyncio.to_thread(scene)

    asyncio.run(run())


def test_what_it_prints_and_its_exit_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def scene() -> None:
        code, out, _ = fcd("chats", "list")
        assert code == EXIT_OK
        assert "Where are otters?" in out
        assert {each["id"][-3:] for each in json.loads(fcd("chats", "list", "--json")[1])["chats"]} == {"aaa", "aab"}
        monkeypatch.setattr("fcd.cli.chats._PAGE", 1)
        assert len(json.loads(fcd("chats", "list", "--limit", "5", "--json")[1])["chats"]) == 2
        assert "1 of 2" in fcd("chats", "list", "--limit", "1")[1]
        monkeypatch.setattr("fcd.cli.chats._PAGE", 1000)
        assert "## guide\n\nIn **rivers**." in fcd("chats", "show", "20260101-000000-aaa")[1]
        assert json.loads(fcd("chats", "show", "last", "--json")[1])["chat"]["title"] == "Bread?"
        assert fcd("chats", "show", "20260101-000000-aaa")[0] == EXIT_OK
        assert fcd("chats", "show", "20260101")[0] == EXIT_USAGE
        assert fcd("chats", "show", "nothing")[0] == EXIT_NOT_FOUND
        code, out, _ = fcd("chats", "search", "otters")
        assert (code, "20260101-000000-aaa" in out, "Bread" in out) == (EXIT_OK, True, False)
        assert fcd("chats", "search", "zebra")[0] == EXIT_FAILED
        for form, word in (("json", "fcd-chats-1"), ("sharegpt", '"human"'), ("fastchat", "USER"), ("markdown", "# ")):
            target = tmp_path / f"out.{form}"
            assert fcd("chats", "export", "--format", form, "-o", str(target))[0] == EXIT_OK
            assert word in target.read_text()
        assert '"human"' in fcd("chats", "export", "20260101-000000-aaa", "--format", "sharegpt")[1]
        assert json.loads(fcd("chats", "import", str(tmp_path / "out.json"), "--json")[1])["duplicates"] == 2
        assert "2 chats taken in" in fcd("chats", "import", str(tmp_path / "out.sharegpt"))[1]
        (tmp_path / "bad.json").write_text("{}")
        assert fcd("chats", "import", str(tmp_path / "bad.json"))[0] == EXIT_FAILED
        assert fcd("chats", "import", str(tmp_path / "none.json"))[0] == EXIT_FAILED
        assert fcd("chats", "rm", "20260101-000000-aaa")[0] == EXIT_OK
        assert fcd("chats", "show", "20260101-000000-aaa")[0] == EXIT_NOT_FOUND
        assert "20260101-000000-aaa" in fcd("chats", "list", "--deleted")[1]
        assert fcd("chats", "restore", "20260101-000000-aaa")[0] == EXIT_OK
        assert fcd("chats", "show", "20260101-000000-aaa")[0] == EXIT_OK

    play(scene, monkeypatch)


def test_without_a_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCD_URL", "http://127.0.0.1:9")
    code, _, err = fcd("chats", "list")
    assert code == EXIT_NOT_RUNNING
    assert "does not answer" in err
    assert "Traceback" not in err


def test_large_files_go_in_parts() -> None:
    records = [{"id": str(n), "conversations": [{"from": "human", "value": "x" * 100}]} for n in range(50)]
    whole = json.dumps(records).encode()
    lines = b"\n".join(json.dumps(each).encode() for each in records)
    ours = json.dumps({"format": "fcd-chats-1", "chats": records}).encode()
    for data in (whole, lines, ours):
        parts = parts_of(data, 1000)
        assert len(parts) > 5
        assert [each for part in parts for each in json.loads(part)] == records
    assert parts_of(b"small") == ["small"]
