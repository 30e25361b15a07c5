"""The daemon's life, with real processes: start, start twice, stale pidfiles, taken ports, stop, kill, drain."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest

from fcd.cli.ensure import ensure_daemon, not_ready
from fcd.errors import AlreadyRunning
from fcd.instance import Instance, InstanceLock, lock_is_held, read_record, running_instance, write_record
from fcd.paths import Paths, resolve_paths
from fcd.settings import Settings
from tests.e2e.harness import Home, is_running, wait_for


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    instance = running_instance(paths_of(home))
    home.stop()
    if instance is not None:
        assert not is_running(instance.pid)


def paths_of(home: Home) -> Paths:
    return resolve_paths({"FCD_HOME": str(home.folder)})


def test_start_status_restart_stop(home: Home) -> None:
    started = home.fcd("daemon", "start")
    assert home.url in started.stdout
    status = home.status()
    assert {"pid", "url", "version", "ready", "uptime_s", "workers"} <= set(status)
    assert (status["url"], status["ready"]) == (home.url, True)
    table = home.fcd("daemon", "status").stdout
    assert home.url in table
    assert str(status["pid"]) in table
    record = read_record(paths_of(home))
    assert record is not None
    assert (record.pid, record.url) == (status["pid"], home.url)
    assert record.create_time > 0

    again = home.fcd("daemon", "start", check=False)
    assert again.returncode == 3
    assert str(status["pid"]) in again.stderr
    assert home.url in again.stderr
    assert home.status()["pid"] == status["pid"]

    restarted = json.loads(home.fcd("daemon", "restart", "--json").stdout)
    assert restarted["pid"] == home.status()["pid"] != status["pid"]
    assert not is_running(status["pid"])

    stopped = home.fcd("daemon", "stop")
    assert str(restarted["pid"]) in stopped.stdout
    assert not is_running(restarted["pid"])
    for leftover in ("daemon.json", "admin.token"):
        assert not (home.folder / "runtime" / leftover).exists()
    for command in ("status", "stop"):
        done = home.fcd("daemon", command, check=False)
        assert done.returncode == 3
        assert "fcd daemon start" in done.stderr


def test_killed_then_started(home: Home) -> None:
    home.fcd("daemon", "start")
    pid = home.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_running(pid), within=5)
    assert (home.folder / "runtime" / "daemon.json").exists()
    status = home.fcd("daemon", "status", check=False)
    assert status.returncode == 3
    assert str(pid) in status.stderr  # it says that the daemon ended without cleaning up
    home.fcd("daemon", "start")
    assert home.status()["pid"] != pid


def test_a_pidfile_that_names_a_foreign_process_harms_nobody(home: Home) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        paths = paths_of(home)
        paths.create()
        write_record(paths, Instance(bystander.pid, home.url, "0.0.1", time.time()))
        assert home.fcd("daemon", "status", check=False).returncode == 3
        assert home.fcd("daemon", "stop", check=False).returncode == 3
        home.fcd("daemon", "start")
        assert home.status()["pid"] != bystander.pid
        # a daemon that runs while the pidfile is overwritten: the lock is held, but the pid is not its holder's
        write_record(paths, Instance(bystander.pid, home.url, "0.0.1", time.time(), create_time=1.0))
        assert home.fcd("daemon", "stop", check=False).returncode == 3
        assert bystander.poll() is None
        os.kill(int(httpx.get(f"{home.url}/api/status", headers=admin(home)).json()["pid"]), signal.SIGTERM)
        wait_for(lambda: not lock_is_held(paths), within=10)
    finally:
        bystander.communicate(b"\n")


def admin(home: Home) -> dict[str, str]:
    return {"Authorization": f"Bearer {paths_of(home).admin_token.read_text()}"}


def test_a_start_that_fails_says_why(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.port))
        taken.listen()
        done = home.fcd("daemon", "start", check=False)
        assert done.returncode == 1
        assert f"Port {home.port} on 127.0.0.1 is taken" in done.stderr
        assert "--port" in done.stderr
        assert "Traceback" not in done.stderr
    wide = home.fcd("daemon", "start", "--host", "0.0.0.0", check=False)
    assert wide.returncode == 1
    assert "fcd key create" in wide.stderr
    (home.folder / "config").mkdir(exist_ok=True)
    (home.folder / "config" / "config.toml").write_text("[daemon]\nprot = 1\n")
    wrong = home.fcd("daemon", "start", check=False)
    assert wrong.returncode == 2
    assert "line 2" in wrong.stderr
    assert "'port'" in wrong.stderr
    assert not lock_is_held(paths_of(home))


def test_keys_made_without_a_daemon_are_good_in_it(home: Home) -> None:
    key = home.fcd("key", "create", "laptop").stdout.strip()
    assert home.fcd("daemon", "start").returncode == 0
    assert httpx.get(f"{home.url}/v1/models").status_code == 401
    good = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{home.url}/v1/models", headers=good).status_code == 200
    token = json.loads(home.fcd("token", "create", "box", "--ttl", "1h", "--json").stdout)
    assert token["secret"].startswith("fcd-j-")
    listed = json.loads(home.fcd("key", "list", "--json").stdout)
    assert [each["name"] for each in listed] == ["laptop"]
    assert "box" in home.fcd("token", "list").stdout
    home.fcd("key", "revoke", "laptop")
    assert home.fcd("key", "revoke", "laptop", check=False).returncode == 4
    assert httpx.get(f"{home.url}/v1/models", headers=good).status_code == 200  # no key is left, so none is asked for
    log = (home.folder / "state" / "logs" / "daemon.log").read_text()
    assert key not in log
    assert token["secret"] not in log


def test_two_starts_at_once_make_one_daemon(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in home.environ.items():
        if name.startswith("FCD_"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("FCD_URL", raising=False)
    addresses, problems = [], []

    def ensure() -> None:
        try:
            addresses.append(ensure_daemon(paths_of(home), Settings(), lambda progress: None))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert {each.url for each in addresses} == {home.url}
    assert {each.api_key for each in addresses} == {paths_of(home).admin_token.read_text()}
    assert not_ready(home.url) is None
    home.fcd("daemon", "stop")
    started = [
        line for line in (home.folder / "state" / "logs" / "daemon.log").read_text().splitlines() if "listening" in line
    ]
    assert len(started) == 1
    assert not lock_is_held(paths_of(home))
    alive = [each.pid for each in psutil.process_iter(["cmdline"]) if is_of(each, home)]
    assert alive == []


def is_of(process: psutil.Process, home: Home) -> bool:
    """Whether a process is a daemon of this home, holding the lock or waiting for it."""
    try:
        return "daemon" in process.cmdline() and process.environ().get("FCD_HOME") == str(home.folder)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def test_the_foreground_daemon_ends_with_zero_and_logs_for_people(home: Home) -> None:
    process = home.popen("daemon", "run", stderr=subprocess.PIPE)
    try:
        wait_for(lambda: running_instance(paths_of(home)) is not None, within=30)
        assert wait_for(lambda: not_ready(home.url) is None, within=30)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert f"listening on {home.url}" in said
    assert "stopped" in said
    lines = (home.folder / "state" / "logs" / "daemon.log").read_text().splitlines()
    assert all(json.loads(line)["message"] for line in lines)
    shown = home.fcd("daemon", "logs", "-n", "50").stdout
    assert f"listening on {home.url}" in shown


def test_following_the_log_shows_what_is_written(home: Home) -> None:
    log = home.folder / "state" / "logs" / "daemon.log"
    log.parent.mkdir(parents=True)
    log.write_text('{"time":1.0,"level":"info","logger":"a","message":"old"}\n')
    following = home.popen("daemon", "logs", "-f", stdout=subprocess.PIPE)
    try:
        assert following.stdout is not None
        assert "old" in following.stdout.readline()
        with log.open("a") as file:
            file.write('{"time":2.0,"level":"info","logger":"a","message":"new"}\n')
        assert "new" in following.stdout.readline()
        log.rename(log.with_name("daemon.log.1"))
        log.write_text('{"time":3.0,"level":"info","logger":"a","message":"rotated"}\n')
        assert "rotated" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 130
    finally:
        following.kill()


def test_the_lock_is_one_process_s_and_ends_with_it(tmp_path: Path) -> None:
    paths = resolve_paths({"FCD_HOME": str(tmp_path)})
    paths.create()
    assert not lock_is_held(paths)
    lock = InstanceLock.acquire(paths)
    assert lock_is_held(paths)
    with pytest.raises(AlreadyRunning):
        InstanceLock.acquire(paths)
    lock.release()
    assert not lock_is_held(paths)
    code = "import sys; from fcd.instance import *; from fcd.paths import resolve_paths; "
    code += "lock = InstanceLock.acquire(resolve_paths()); print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "FCD_HOME": str(tmp_path)},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert lock_is_held(paths)
    holder.kill()
    holder.wait()
    assert not lock_is_held(paths)
