"""The daemon as a service: what stands in the files, and what is done with service managers that the tests play."""

from __future__ import annotations

import os
import plistlib
import shlex
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from fcd.cli import service as module
from fcd.cli.service import LABEL, Launchd, Program, Systemd, _refuse_other_home, service_for
from fcd.errors import FcdError
from tests.fcd.terminal import environment, fcd

PROGRAM = Program(
    ("/opt/my py/bin/python", "-P", "-m", "fcd", "daemon", "run"),
    {"FCD_HOME": '/home/a "b" 100%'},
    60,
    Path("/l/daemon.err"),
)

SYSTEMCTL = """#!{python}
# Does what systemd would with the one unit of this folder, and writes down what it was asked.
import os, shlex, signal, subprocess, sys
from pathlib import Path

folder, words = Path({folder!r}), sys.argv[1:]
with (folder / "asked").open("a") as file:
    file.write(" ".join(words) + "\\n")
unit, pid = Path(os.environ["XDG_CONFIG_HOME"]) / "systemd/user/fcd.service", folder / "pid"
if (folder / "broken").exists():
    sys.exit("Failed to connect to bus: No medium found")
if "enable" in words:
    env = dict(os.environ)
    for line in unit.read_text().splitlines():
        if line.startswith("Environment="):
            name, _, value = shlex.split(line.partition("=")[2])[0].partition("=")
            env[name] = value
        if line.startswith("ExecStart="):
            command = shlex.split(line.partition("=")[2])
    child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=(folder / "stderr").open("wb"), start_new_session=True)
    pid.write_text(str(child.pid))
if "disable" in words and pid.exists():
    os.kill(int(pid.read_text()), signal.SIGTERM)
    pid.unlink()
"""


def home_of(folder: Path, *, systemctl: bool = True) -> dict[str, str]:
    tools = folder / "bin"
    tools.mkdir()
    if systemctl:
        tool = tools / "systemctl"
        tool.write_text(SYSTEMCTL.format(python=sys.executable, folder=str(folder)))
        tool.chmod(0o755)
    more = {"XDG_CONFIG_HOME": str(folder / "config home"), "FCD_PORT": "0", "PATH": str(tools)}
    return environment(folder / "fcd home", **more)


def unit_of(folder: Path) -> Path:
    return folder / "config home" / "systemd" / "user" / "fcd.service"


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_the_unit_runs_this_python_with_these_folders() -> None:
    text = Systemd({"HOME": "/home/me"}).text(PROGRAM).decode()
    lines = text.splitlines()
    assert 'ExecStart="/opt/my py/bin/python" -P -m fcd daemon run' in lines
    assert 'Environment="FCD_HOME=/home/a \\"b\\" 100%%"' in lines
    assert "TimeoutStopSec=60" in lines
    assert "WantedBy=default.target" in lines
    assert "KEY" not in text
    assert Systemd({"HOME": "/home/me"}).file == Path("/home/me/.config/systemd/user/fcd.service")
    with pytest.raises(FcdError, match="control characters"):
        Systemd({"HOME": "/h"}).text(Program(("/a\nb",), {}, 1, Path("/l")))


def test_the_agent_is_a_property_list() -> None:
    agent = Launchd({"HOME": "/Users/me"})
    assert agent.file == Path("/Users/me/Library/LaunchAgents/fcd.daemon.plist")
    said = plistlib.loads(agent.text(PROGRAM))
    assert said["Label"] == LABEL
    assert said["ProgramArguments"] == list(PROGRAM.arguments)
    assert said["EnvironmentVariables"] == PROGRAM.environment
    assert said["RunAtLoad"] is True
    assert said["KeepAlive"] == {"SuccessfulExit": False}


def test_other_systems_are_told_so() -> None:
    with pytest.raises(FcdError, match="win32"):
        service_for("win32", {})


def test_launchd_is_asked_to_take_and_give_back_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "launchctl"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tmp_path / "asked"))}\n[ "$1" != bootout ] || exit 3\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    agent = Launchd({"HOME": str(tmp_path)})
    agent.check()
    agent.start()
    agent.stop()
    domain = f"gui/{os.getuid()}"
    assert asked(tmp_path) == [f"print {domain}", f"bootstrap {domain} {agent.file}", f"bootout {domain}/{LABEL}"]


def test_a_service_of_other_folders_is_told_from_this_one(tmp_path: Path) -> None:
    def program(home: str) -> Program:
        return Program(("python",), {"FCD_HOME": home} if home else {}, 60, tmp_path / "log")

    for service in (Systemd({"HOME": str(tmp_path)}), Launchd({"HOME": str(tmp_path)})):
        unit = tmp_path / "unit"
        for home in ("/a/fcd2", "/a/with space", "/a/50%", ""):
            unit.write_bytes(service.text(program(home)))
            _refuse_other_home(unit, program(home))
            for other in ("/a/fcd", "/a/with", "/a", "/a/fcd22"):
                with pytest.raises(FcdError, match="other folders"):
                    _refuse_other_home(unit, program(other))


def test_print_shows_the_unit_and_writes_nothing(tmp_path: Path) -> None:
    done = fcd("daemon", "install", "--print", env=home_of(tmp_path, systemctl=False))
    assert done.returncode == 0, done.stderr
    assert f"ExecStart={sys.executable} -P -m fcd daemon run" in done.stdout
    assert f'Environment="FCD_HOME={tmp_path}/fcd home"' in done.stdout
    assert not unit_of(tmp_path).exists()


def test_without_systemd_nothing_is_written(tmp_path: Path) -> None:
    env = home_of(tmp_path, systemctl=False)
    done = fcd("daemon", "install", env=env)
    assert done.returncode == 1
    assert "no systemctl" in done.stderr
    assert "fcd daemon start" in done.stderr
    assert not unit_of(tmp_path).exists()
    assert fcd("daemon", "uninstall", env=env).returncode == 4


def test_a_systemd_that_does_not_answer_is_quoted(tmp_path: Path) -> None:
    env = home_of(tmp_path)
    (tmp_path / "broken").touch()
    done = fcd("daemon", "install", env=env)
    assert done.returncode == 1
    assert "Failed to connect to bus" in done.stderr
    assert not unit_of(tmp_path).exists()


def test_install_starts_the_daemon_and_uninstall_ends_it(tmp_path: Path) -> None:
    env = home_of(tmp_path)
    try:
        done = fcd("daemon", "install", env=env)
        assert done.returncode == 0, done.stderr + (tmp_path / "stderr").read_text()
        assert "ready at http://127.0.0.1:" in done.stdout
        assert "enable-linger" in done.stderr
        assert asked(tmp_path)[1:] == ["--user daemon-reload", "--user enable --now fcd.service"]
        assert fcd("daemon", "status", env=env).returncode == 0
        first = int((tmp_path / "pid").read_text())
        other = fcd("daemon", "install", env={**env, "FCD_HOME": str(tmp_path / "elsewhere")})
        assert other.returncode == 1
        assert "other folders" in other.stderr
        again = fcd("daemon", "install", env=env)
        assert again.returncode == 0, again.stderr
        assert int((tmp_path / "pid").read_text()) != first
        gone = fcd("daemon", "uninstall", env=env)
        assert gone.returncode == 0, gone.stderr
        assert asked(tmp_path)[-2:] == ["--user disable --now fcd.service", "--user daemon-reload"]
        assert not unit_of(tmp_path).exists()
        deadline = time.monotonic() + 20
        while fcd("daemon", "status", env=env).returncode != 3:
            assert time.monotonic() < deadline
    finally:
        if (tmp_path / "pid").exists():
            with_pid = int((tmp_path / "pid").read_text())
            if psutil.pid_exists(with_pid):
                os.kill(with_pid, signal.SIGKILL)


def test_a_daemon_that_runs_by_hand_is_not_replaced(tmp_path: Path) -> None:
    env = home_of(tmp_path)
    assert fcd("daemon", "start", env=env).returncode == 0
    try:
        done = fcd("daemon", "install", env=env)
        assert done.returncode == 3
        assert "fcd daemon stop" in done.stderr
        assert not unit_of(tmp_path).exists()
    finally:
        assert fcd("daemon", "stop", env=env).returncode == 0


def test_a_service_that_does_not_come_up_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fcd.paths import resolve_paths

    monkeypatch.setattr(module, "_START_S", 0.2)
    with pytest.raises(FcdError, match="not ready") as failure:
        module._wait(resolve_paths({"FCD_HOME": str(tmp_path)}), Systemd({"HOME": str(tmp_path)}))
    assert "systemctl --user status" in failure.value.hint
