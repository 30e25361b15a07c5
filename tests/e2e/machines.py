"""Network namespaces as machines: each with an address of its own, on a switch whose cables can be pulled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.e2e.harness import Home

_ASK = """
import json, sys, urllib.error, urllib.request
url, key, body = sys.argv[1:4]
request = urllib.request.Request(url, data=body.encode() or None)
request.add_header("Content-Type", "application/json")
request.add_header("Authorization", "Bearer " + key)
try:
    with urllib.request.urlopen(request, timeout=40) as answer:
        status, text = answer.status, answer.read()
except urllib.error.HTTPError as error:
    status, text = error.code, error.read()
except OSError as error:
    status, text = 0, str(error).encode()
print(json.dumps([status, text.decode()]))
"""

_STREAM = """
import sys, urllib.request
url, key, body = sys.argv[1:4]
request = urllib.request.Request(url, data=body.encode())
request.add_header("Content-Type", "application/json")
request.add_header("Authorization", "Bearer " + key)
with urllib.request.urlopen(request, timeout=60) as answer:
    first = answer.read1()
    print("begun", flush=True)
    sys.stdout.write((first + answer.read()).decode())
"""


def why_not() -> str:
    """Why there can be no machines here; empty when there can."""
    if not sys.platform.startswith("linux") or shutil.which("ip") is None:
        return "network namespaces need Linux and its `ip` command"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"fcd-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"network namespaces are not allowed here: {tried.stderr.strip()}"
    link = ["ip", "-n", name, "link", "add", "fcd-br", "type", "bridge"]
    tried = subprocess.run(link, capture_output=True, text=True, check=False)
    ip("netns", "del", name)
    return f"bridges are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class Machine(Home):
    """One namespace with a home of its own; its daemon listens on port 8000 of its address."""

    def __init__(self, folder: Path, namespace: str, address: str) -> None:
        super().__init__(folder)
        self.namespace = namespace
        self.address = address
        self.port = 8000
        self.url = f"http://{address}:8000"
        self.key = ""
        self.environ |= {"FCD_PORT": "8000", "FCD_HOST": address, "FCD_WORKER_HEARTBEAT_S": "1"}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def _inside(self) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, sys.executable]

    def fcd(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [*self._inside, "-m", "fcd", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=180,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"fcd {' '.join(arguments)} -> {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._inside, "-m", "fcd", *arguments], text=True, env=self.environ, **options)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """A request from this machine to its own daemon: status (0: none) and text."""
        text = json.dumps(body) if body is not None else ""
        command = [*self._inside, "-c", _ASK, f"{self.url}{path}", self.key, text]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        status, answer = json.loads(done.stdout)
        return status, answer

    def chat(self, model: str, **fields: Any) -> tuple[int, str]:
        messages = [{"role": "user", "content": "Hello"}]
        return self.ask("/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 4, **fields})

    def popen_ask(self, model: str) -> subprocess.Popen[str]:
        """A long answer that streams; returns when it has begun."""
        messages = [{"role": "user", "content": "Count"}]
        fields = {"model": model, "messages": messages, "stream": True, "max_tokens": 1800, "ignore_eos": True}
        asking = subprocess.Popen(
            [*self._inside, "-c", _STREAM, f"{self.url}/v1/chat/completions", self.key, json.dumps(fields)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert asking.stdout is not None
        assert asking.stdout.readline() == "begun\n"
        return asking

    def start(self) -> None:
        """Its daemon, which others may reach with a key."""
        self.key = json.loads(self.fcd("key", "create", "test", "--json").stdout)["secret"]
        self.fcd("daemon", "start")


class Switch:
    """Where the cables meet: in the first machine's namespace, so that nothing of the host is touched."""

    def __init__(self, machines: list[Machine]) -> None:
        self.machines = machines
        self._hub = machines[0].namespace

    def cable(self, machine: Machine, state: str) -> None:
        """Pull a machine's cable (`down`), or plug it in again (`up`)."""
        ip("-n", self._hub, "link", "set", f"to{self.machines.index(machine)}", state)


@contextmanager
def machines(folder: Path, *names: str) -> Iterator[Switch]:
    """Machines 10.77.0.1, .2, ... in a network of their own."""
    made = [
        Machine(folder / name, f"fcd-{os.getpid()}-{name}", f"10.77.0.{number}") for number, name in enumerate(names, 1)
    ]
    hub = made[0].namespace
    try:
        for machine in made:
            ip("netns", "add", machine.namespace)
            ip("-n", machine.namespace, "link", "set", "lo", "up")
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "addr", "add", f"{made[0].address}/24", "dev", "br0")
        ip("-n", hub, "link", "set", "br0", "up")
        for number, machine in enumerate(made[1:], 1):
            there = machine.namespace
            ip("-n", hub, "link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", there)
            ip("-n", hub, "link", "set", f"to{number}", "master", "br0", "up")
            ip("-n", there, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            ip("-n", there, "link", "set", "eth0", "up")
        yield Switch(made)
    finally:
        for machine in made:
            _clear(machine.namespace)


def _clear(namespace: str) -> None:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
