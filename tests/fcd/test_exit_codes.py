"""Every command's exit codes, in one table: 2 wrong usage, 3 no daemon, 4 no such thing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcd.cli.main import build_parser, main
from fcd.cli.table import COMMANDS
from tests.fcd.fake_daemon import FakeDaemon, fake_daemon
from tests.fcd.terminal import environment, fcd, terminal

NEEDS_A_DAEMON = (
    "ps",
    "unload guide",
    "ping guide",
    "worker start guide",
    "worker stop w",
    "worker restart w",
    "worker list",
    "worker show w",
    "worker logs w",
    "worker attach http://127.0.0.1:1",
    "worker detach w",
    "daemon stop",
    "daemon status",
    "daemon join",
    "daemon leave http://127.0.0.1:1",
    "arena leaderboard",
    "arena votes",
    "arena pairs",
    "arena export --format json",
)
STARTS_ONE = (
    "chat",
    "run",
    "load",
    "tui",
    "arena battle",
    "arena judge",
    "daemon start",
    "daemon restart",
    "daemon run",
)
NEEDS_NONE = (
    "ls", "show", "pull", "rm", "alias", "doctor", "completion", "version", "worker run", "daemon logs",
    "key create", "key list", "key revoke", "token create", "token list", "token revoke",
    "config path", "config show", "config get", "config set", "config edit", "arena import",
)  # fmt: skip
OTHERS = ("engine", "chats", "daemon install", "daemon uninstall", "train", "eval", "bench")
"""Tested where they are at home."""

USAGE = (
    "chat --temperature 9 hi",
    "chat --temperature nan hi",
    "chat --top-p 1.5 hi",
    "chat --top-k -5 hi",
    "chat --min-p -0.1 hi",
    "chat --repetition-penalty 0 hi",
    "chat --max-new-tokens 0 hi",
    "chat --seed 99999999999999999999 hi",
    "chat --keep-alive soon hi",
    "load m --ttl soon",
    "load m --ttl 5m --keep-alive 5m",
    "run guide --temperature 9 hi",
    "ping guide --temperature 9",
    "ping guide --timeout 0",
    "arena battle --temperature 9 hi",
    "arena battle --top-p -1 hi",
    "arena leaderboard --min-tokens -4",
    "arena leaderboard --rounds 0",
    "arena leaderboard --since bla",
    "daemon start --port 99999",
    "daemon logs -n 0",
    "worker run",
    "worker run guide",
    "worker logs w -n 0",
    "worker start guide --replicas 9999",
    "key create --ttl bla",
    "config set chat.temperature x",
    "alias small",
)

NO_SUCH_THING = (
    "config get nope",
    "config get chat.modle",
    "config set chat.nope 1",
    "show nope",
    "rm nope",
    "alias --remove nope",
    "key revoke nope",
    "token revoke nope",
    "worker run nope --no-register",
    "load nope --estimate",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FCD_URL", raising=False)
    return tmp_path


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    with fake_daemon() as fake:
        monkeypatch.setenv("FCD_URL", fake.url)
        yield fake


def leaves() -> list[str]:
    found = []
    for entry in COMMANDS.values():
        parser, _ = build_parser(entry)
        group = parser.get_default("group")
        found += [entry.name] if group is None else [f"{entry.name} {name}" for name in group.names]
    return found


def test_every_command_is_in_the_table() -> None:
    known = (*NEEDS_A_DAEMON, *STARTS_ONE, *NEEDS_NONE, *OTHERS)
    for leaf in leaves():
        assert any(f"{each} ".startswith(f"{leaf} ") or leaf.startswith(f"{each} ") for each in known), leaf


@pytest.mark.parametrize("line", NEEDS_A_DAEMON)
def test_no_daemon_is_3(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 3
    assert "fcd daemon start" in capsys.readouterr().err


@pytest.mark.parametrize("line", USAGE)
def test_wrong_usage_is_2_before_anything_is_asked(
    line: str, daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("fcd")
    assert len(said.splitlines()) <= 2
    assert not daemon.requests, "nothing may be loaded for it"


def test_a_duration_is_blamed_on_the_flag_that_said_it(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--ttl", "--keep-alive"):
        assert main(["load", "m", flag, "bogus"]) == 2
        assert f" {flag}: " in capsys.readouterr().err


def test_a_restart_that_is_broken_off_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fcd.cli.daemon._start_and_wait", broken_off)
    assert main(["daemon", "restart"]) == 130
    said = capsys.readouterr().err
    assert "no other was started" in said
    assert "fcd daemon start" in said
    monkeypatch.setattr("fcd.cli.daemon.lock_is_held", lambda _: True)
    assert main(["daemon", "restart"]) == 130
    assert "fcd daemon status" in capsys.readouterr().err


@pytest.mark.parametrize("line", NO_SUCH_THING)
def test_no_such_thing_is_4(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 4
    assert "nope" in (said := capsys.readouterr().err) or "modle" in said


def test_the_status_is_json_also_when_there_is_no_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["daemon", "status", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["running"], said["ready"]) == (False, False)
    assert "fcd daemon start" in said["reasons"][0]


def test_the_path_of_the_settings_is_json_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "path", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(home / "config" / "config.toml"), "exists": False}


@pytest.mark.parametrize("name", ["bad name", "", "-x", "a\tb", "x@8bit", "../up", "/root", "a" * 300, "guide"])
def test_an_alias_says_what_a_name_may_hold(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alias", "--", name, "guide"]) == 2
    said = capsys.readouterr().err
    assert "letters, digits" in said or "built-in" in said
    assert not (home / "config" / "config.toml").exists()


@pytest.mark.parametrize("name", ["small", "Qwen/Qwen3-0.6B", "tag:latest", "größe", "v1.5+x"])
def test_names_that_an_alias_may_have(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alias", name, "guide"]) == 0


def test_one_answer_as_json(daemon: FakeDaemon) -> None:
    done = fcd("chat", "--json", "Say this", env=environment(Path("/nonexistent"), FCD_URL=daemon.url))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["model"] == "guide"
    assert "Say this" in said["text"]
    assert said["finish_reason"] == "stop"
    assert said["usage"]["completion_tokens"] >= 1
    assert said["timings"]["total_ms"] >= said["timings"]["ttft_ms"] > 0
    assert daemon.chats()[0]["messages"][-1]["content"] == "Say this"


def test_json_is_for_one_answer(home: Path, daemon: FakeDaemon) -> None:
    with terminal("chat", "--json", env=environment(home, FCD_URL=daemon.url)) as shown:
        assert shown.wait() == 2
        assert "--json is for one answer" in shown.plain
    refused = fcd("chat", "--json", "hi", "-m", "nosuch", env=environment(home, FCD_URL=daemon.url))
    assert (refused.returncode, refused.stdout) == (4, "")


def test_save_makes_no_folders(home: Path, daemon: FakeDaemon) -> None:
    nowhere = home / "nope" / "x.json"
    with terminal("chat", "--style", "simple", env=environment(home, FCD_URL=daemon.url)) as chat:
        chat.line(f"/save {nowhere}")
        chat.expect("There is no folder")
        chat.line(f"/export {nowhere.with_suffix('.md')}")
        chat.expect("There is no folder")
        chat.line(f"/save {home / 'x.json'}")
        chat.expect("Saved to")
        chat.line("/exit")
        assert chat.wait() == 0
    assert not nowhere.parent.exists()
