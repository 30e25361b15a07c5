"""The commands that ask a daemon, against a scripted one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fcd.fake_daemon import FakeDaemon, Pause, Refuse, fake_daemon
from tests.fcd.terminal import environment, fcd, terminal


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as fake:
        yield fake


@pytest.fixture
def env(daemon: FakeDaemon, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, FCD_URL=daemon.url, NO_COLOR="1")


def test_ps(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.workers.append(
        {"name": "bad", "models": ["bad"], "state": "failed", "error": "out of memory", "restarts": 3}
    )
    shown = fcd("ps", env=env).stdout
    assert "4711" in shown
    assert "failed (ended 3 times)" in shown
    assert "bad: out of memory" in shown
    rows = json.loads(fcd("ps", "--json", env=env).stdout)["workers"]
    assert [row["state"] for row in rows] == ["ready", "failed"]
    assert rows[0]["running"] == 0, "fields at their defaults are there too"
    daemon.workers.clear()
    assert "Nothing is running" in fcd("ps", env=env).stdout


def test_ls_lists_what_the_daemon_knows(env: dict[str, str]) -> None:
    shown = fcd("ls", env=env).stdout
    assert "*guide" in shown
    assert " other" in shown


def test_load_shows_progress_and_what_was_loaded(daemon: FakeDaemon, env: dict[str, str]) -> None:
    done = fcd("load", "guide", "--ttl", "5m", env=env)
    assert done.stdout == "guide is ready (cpu, context 2048 tokens).\n"
    assert daemon.loads()[0]["options"] == {"keep_alive": "5m"}
    assert json.loads(fcd("load", "guide", "--json", env=env).stdout)["worker"]["pid"] == 4711
    assert fcd("load", "nosuch", env=env).returncode == 4


def test_a_download_is_a_bar_on_a_terminal(daemon: FakeDaemon, env: dict[str, str]) -> None:
    step = {"stage": "downloading", "done": 5_000_000, "total": 20_000_000, "unit": "bytes"}
    daemon.load_events = [{"type": "progress", "progress": step}, {"type": "ready", "model": "other"}]
    colour = {name: value for name, value in env.items() if name != "NO_COLOR"}
    with terminal("load", "other", env=colour) as shown:
        assert shown.wait() == 0
    assert "5.0 MB/20.0 MB" in shown.plain
    assert "other is ready." in shown.plain


def test_unload(daemon: FakeDaemon, env: dict[str, str]) -> None:
    assert fcd("unload", "guide", env=env).stdout == "guide is unloaded.\n"
    assert ("POST", "/api/models/unload", {"model": "guide"}) in daemon.requests


def test_ping(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.answers = [["Pong", "."]]
    done = fcd("ping", "guide", env=env)
    assert done.returncode == 0
    assert done.stdout.startswith("Pong.\nworker guide, first token after")
    assert daemon.chats()[0]["max_tokens"] == 32
    daemon.answers = [["Pong"]]
    assert json.loads(fcd("ping", "--model-name", "guide", "--json", env=env).stdout)["text"] == "Pong"


def test_ping_fails_when_there_is_no_answer(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.answers = [[Refuse(503, "No worker for guide.", "no_worker")], [], [Pause()]]
    daemon.workers[0]["state"] = "failed"
    done = fcd("ping", "guide", env=env)
    assert (done.returncode, "No worker for guide." in done.stderr) == (1, True)
    empty = fcd("ping", "guide", env=env)
    assert (empty.returncode, "answered with nothing" in empty.stderr) == (1, True)
    late = fcd("ping", "guide", "--timeout", "0.3", env=env)
    assert late.returncode == 1
    assert "no answer within" in late.stderr


def test_show_tells_of_the_worker(env: dict[str, str]) -> None:
    shown = json.loads(fcd("show", "guide", "--json", env=env).stdout)
    assert shown["source"] == "builtin"
    assert shown["workers"][0]["state"] == "ready"


def test_rm_does_not_take_what_is_loaded(daemon: FakeDaemon, env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "hf" / "hub" / "models--some--thing"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "a").write_bytes(b"x" * 1000)
    daemon.workers[0]["models"] = ["some/thing"]
    done = fcd("rm", "some/thing", "--yes", env=env)
    assert done.returncode == 1
    assert "fcd unload" in done.stderr
    daemon.workers.clear()
    assert fcd("rm", "some/thing", env=env).returncode == 2, "there is no terminal to ask"
    done = fcd("rm", "some/thing", "--yes", env=env)
    assert done.stdout == "Removed some/thing: 1.0 kB are free again.\n"
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../hub/models--some--thing", "some/../thing", "/etc", "a--b", ".."])
def test_rm_keeps_to_the_cache(name: str, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "hf" / "hub" / "models--some--thing").mkdir(parents=True)
    assert fcd("rm", name, "--yes", env=env).returncode == 4
    assert (tmp_path / "hf" / "hub" / "models--some--thing").is_dir()


def test_completion_offers_commands_flags_and_models(env: dict[str, str], tmp_path: Path) -> None:
    import subprocess
    import sys

    script = tmp_path / "fcd.bash"
    script.write_text(fcd("completion", "bash", env=env).stdout)
    names = fcd("completion", "bash", "--models", env=env).stdout.split()
    assert names[:2] == ["guide", "guide-mini"]

    def offered(*words: str) -> list[str]:
        line = " ".join(f'"{word}"' for word in words)
        code = (
            f'fcd() {{ {sys.executable} -m fcd "$@"; }}\nsource {script}\n'
            f'COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _fcd; echo "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=env, timeout=60)
        assert done.stderr == ""
        return done.stdout.split()

    assert offered("fcd", "co") == ["config", "completion"]
    assert "--temperature" in offered("fcd", "chat", "--te")
    assert offered("fcd", "daemon", "sto") == ["stop"]
    assert offered("fcd", "daemon", "logs", "--fo") == ["--follow"]
    assert offered("fcd", "chat", "--style", "ri") == ["rich"]
    assert offered("fcd", "chat", "-m", "guide-") == ["guide-mini"]
    assert "guide-mini" in offered("fcd", "show", "gui")
