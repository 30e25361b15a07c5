"""The front door: help, mistakes, exit codes, and what it costs to open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from fcd.cli import main as front
from fcd.cli.table import COMMANDS
from tests.fcd.terminal import ROOT, environment, fcd

HEAVY = ("torch", "transformers", "sanic", "textual", "vllm", "huggingface_hub", "httpx2", "prompt_toolkit", "rich")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


def test_help_names_every_command_and_imports_none(env: dict[str, str]) -> None:
    code = f"""
import sys
from fcd.cli.main import main
code = main(["--help"])
modules = [name for name in sys.modules if name.startswith("fcd.cli.")]
print([name for name in {HEAVY!r} if name in sys.modules], sorted(modules), code, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)
    assert done.stderr.strip() == "[] ['fcd.cli.main', 'fcd.cli.table'] 0"
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_help_is_quick(env: dict[str, str]) -> None:
    """At most three times what importing two small libraries takes, the best of some runs each."""

    def best(*command: str) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=env, cwd=ROOT)
            times.append(time.perf_counter() - began)
        return min(times)

    assert best("-m", "fcd", "--help") <= 3 * best("-c", "import click, rich")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_that_imports_nothing_heavy(name: str, env: dict[str, str]) -> None:
    code = f"""
import sys
from fcd.cli.main import main
code = main([{name!r}, "--help"])
print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)
    assert done.stderr.strip() == "[] 0"
    assert done.stdout.startswith(f"usage: fcd {name}")


def test_every_module_of_the_table_keeps_the_protocol() -> None:
    for entry in COMMANDS.values():
        module = import_module(entry.module)
        assert callable(module.add_arguments), entry.module
        assert callable(module.run), entry.module


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["chta"], 2, "Did you mean 'chat'?"),
        (["frobnicate"], 2, "there is no command 'frobnicate'"),
        (["--verison"], 2, "Did you mean '--version'?"),
        (["ls", "--jsn"], 2, "Did you mean '--json'?"),
        (["config", "shw"], 2, "Did you mean 'show'?"),
        (["config"], 2, "needs a command"),
        (["chat", "--style", "rihc", "x"], 2, "Did you mean 'rich'?"),
        (["unload"], 2, "required"),
        (["ps"], 3, "fcd daemon start"),
        (["ping", "guide"], 3, "fcd daemon start"),
        (["unload", "guide"], 3, "fcd daemon start"),
        (["show", "giude"], 4, "Did you mean 'guide'?"),
        (["show", "/etc"], 1, "config.json"),
        (["rm", "nobody/nothing"], 4, "fcd ls"),
        (["rm", "guide", "--yes"], 1, "built in"),
        (["load", "nobody/nothing", "--estimate"], 4, "fcd pull nobody/nothing"),
        (["pull", "nobody/nothing"], 1, "HF_HUB_OFFLINE"),
        (["tui"], 2, "terminal"),
        (["run"], 2, "required: MODEL\n"),
        (["config", "get", "chat.modle"], 4, "Did you mean 'chat.model'?"),
        (["completion", "tcsh"], 2, "bash, zsh, fish"),
    ],
)
def test_mistakes_are_one_or_two_lines_with_a_next_step(
    words: list[str], code: int, said: str, env: dict[str, str]
) -> None:
    done = fcd(*words, env=env)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr


def test_a_fault_of_ours_shows_its_place_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(entry: object, words: object) -> int:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(front, "_run", broken)
    assert front.main(["version"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("FCD_DEBUG", "1")
    assert front.main(["version"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(entry: object, words: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(front, "_run", interrupted)
    assert front.main(["version"]) == 130


def test_closed_streams_are_no_fault(env: dict[str, str]) -> None:
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        shell = f'"{sys.executable}" -m fcd version {closed}'
        done = subprocess.run(shell, shell=True, capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), closed


def test_an_argument_that_is_no_text_is_named(env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "fcd", "chat", b"caf\xe9"]
    done = subprocess.run(command, capture_output=True, env=env, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert b"argument 2 is not UTF-8 text" in done.stderr
    assert b"fault in fcd" not in done.stderr


def test_folders_that_cannot_be_made_are_named(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    moved = env | {"FCD_STATE_DIR": str(tmp_path / "file" / "state")}
    done = fcd("daemon", "start", env=moved)
    assert done.returncode == 1
    assert str(tmp_path / "file" / "state") in done.stderr
    assert "fcd doctor" in done.stderr


def test_a_closed_pipe_is_quiet(env: dict[str, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fcd", "config", "show"], stdout=write, stderr=subprocess.PIPE, env=env, cwd=ROOT
    )
    os.close(write)
    assert done.stderr == b""


def test_version(env: dict[str, str]) -> None:
    from fcd import __version__

    for words in (["--version"], ["-V"], ["version"]):
        assert fcd(*words, env=env).stdout == f"fcd {__version__}\n"
    assert json.loads(fcd("version", "--json", env=env).stdout)["version"] == __version__


def test_no_words_at_all_show_the_help(env: dict[str, str]) -> None:
    assert fcd(env=env).stdout == fcd("--help", env=env).stdout == fcd("help", env=env).stdout
    assert fcd("help", "ps", env=env).stdout.startswith("usage: fcd ps")


def test_config_goes_round(env: dict[str, str], tmp_path: Path) -> None:
    file = Path(fcd("config", "path", env=env).stdout.strip())
    assert file == tmp_path / "config" / "config.toml"
    assert fcd("config", "set", "chat.temperature", "0.25", env=env).returncode == 0
    assert fcd("config", "get", "chat.temperature", env=env).stdout == "0.25\n"
    assert fcd("config", "set", "daemon.allowed_hosts", "a.example,b.example", env=env).returncode == 0
    shown = json.loads(fcd("config", "show", "--json", env=env).stdout)
    assert shown["daemon"]["allowed_hosts"] == ["a.example", "b.example"]
    assert shown["chat"]["temperature"] == 0.25
    assert fcd("config", "set", "chat.temperature", "null", env=env).returncode == 0
    assert fcd("config", "get", "chat.temperature", env=env).stdout == "\n"
    assert fcd("config", "set", "daemon.port", "many", env=env).returncode == 2
    overridden = fcd("config", "set", "daemon.port", "8123", env=env)
    assert "environment variable overrides it" in overridden.stderr
    assert "port = 8123" in file.read_text()


def test_config_edit_checks_what_was_written(env: dict[str, str], tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf \'[chat]\\nmodle = "x"\\n\' > "$1"\n')
    editor.chmod(0o755)
    done = fcd("config", "edit", env={**env, "EDITOR": str(editor)})
    assert done.returncode == 2
    assert "line 2" in done.stderr
    assert "Did you mean 'model'?" in done.stderr


def test_aliases(env: dict[str, str]) -> None:
    assert "no aliases" in fcd("alias", env=env).stdout
    assert fcd("alias", "small", "guide-mini", env=env).returncode == 0
    assert json.loads(fcd("alias", "--json", env=env).stdout) == {"small": "guide-mini"}
    listed = json.loads(fcd("ls", "--json", env=env).stdout)["models"]
    assert next(model for model in listed if model["name"] == "small")["description"] == "alias of guide-mini"
    assert fcd("alias", "guide", "guide-mini", env=env).returncode == 2
    assert fcd("alias", "x", "nosuch", env=env).returncode == 4
    assert fcd("alias", "small", "small", env=env).returncode == 1, "a circle"
    assert fcd("alias", "small", "--remove", env=env).returncode == 0
    assert fcd("alias", "small", "--remove", env=env).returncode == 4


def test_doctor_says_what_is_wrong(env: dict[str, str], tmp_path: Path) -> None:
    checks = {check["name"]: check for check in json.loads(fcd("doctor", "--json", env=env).stdout)["checks"]}
    assert checks["torch"]["state"] == "ok"
    assert checks["configuration"]["state"] == "ok"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text("[chat")
    (tmp_path / "data").write_text("a file where the folder belongs")
    done = fcd("doctor", env=env)
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert any("configuration" in line for line in failed)
    assert any("data folder" in line for line in failed)


def test_doctor_sees_a_taken_port(env: dict[str, str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = fcd("doctor", env={**env, "FCD_PORT": port})
    assert done.returncode == 1
    assert f"another program has 127.0.0.1:{port}" in done.stdout
