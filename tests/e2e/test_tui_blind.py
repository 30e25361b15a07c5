"""What the interface is sent while a battle is blind: everything on the wire is kept, and searched for the names."""

from __future__ import annotations

import re
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.e2e.harness import Home, wait_for
from tests.e2e.test_tui_pty import ENTER, Terminal

pytestmark = pytest.mark.slow
F3, LEFT = b"\x1bOR", b"\x1b[D"
NAME = b"guide"
WRITTEN = re.compile(rb'"(text|delta|content)":\s*"(\\.|[^"\\])*"')
"""What the models wrote: they may speak of a guide; the arena's own masking has its own tests."""
METHODS = (b"GET ", b"POST ", b"DELETE ", b"PUT ", b"PATCH ")


class RecordingProxy:
    """Passes connections on to the daemon and keeps what came back for each path."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received: defaultdict[str, bytearray] = defaultdict(bytearray)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        upstream = socket.create_connection(("127.0.0.1", self._upstream))
        path = ["?"]

        def requests() -> None:
            with suppress(OSError):
                while data := client.recv(65536):
                    if data.startswith(METHODS):
                        path[0] = data.split(b" ", 2)[1].decode()
                    upstream.sendall(data)
                upstream.shutdown(socket.SHUT_WR)

        threading.Thread(target=requests, daemon=True).start()
        with closing(client), closing(upstream), suppress(OSError):
            while data := upstream.recv(65536):
                self.received[path[0]] += data
                client.sendall(data)

    def of_battles(self) -> bytes:
        """What came back from the battle's routes, without what the models wrote."""
        kept = [bytes(data) for path, data in list(self.received.items()) if path.startswith("/api/battles")]
        return WRITTEN.sub(b"", b"\n".join(kept))

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(own_daemon: Home) -> Iterator[RecordingProxy]:
    found = RecordingProxy(own_daemon.port)
    yield found
    found.close()


def memory_of(pid: int) -> Iterator[bytes]:
    """What a process holds in its heap, mapping by mapping."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            where, access, _, _, inode = line.split()[:5]
            if access.startswith("rw") and inode == "0":
                start, end = (int(part, 16) for part in where.split("-"))
                with suppress(OSError, ValueError):
                    memory.seek(start)
                    yield memory.read(end - start)


def test_nothing_that_reaches_the_interface_tells_the_sides(own_daemon: Home, proxy: RecordingProxy) -> None:
    token = next(own_daemon.folder.rglob("admin.token")).read_text().strip()
    terminal = Terminal(own_daemon, "tui", size=(120, 36), FCD_URL=proxy.url, FCD_API_KEY=token)
    try:
        terminal.wait("● daemon", within=60)
        terminal.type(F3)
        terminal.wait("Ask both")
        terminal.type("What is two plus three?")
        terminal.type(ENTER)
        terminal.wait(lambda text: "Model A" in text and text.count("done") >= 2, within=120)
        sent = proxy.of_battles()
        assert b"side" in sent
        assert NAME not in sent
        try:
            held = b"".join(memory_of(terminal.process.pid))
        except PermissionError:
            held = b""
        for told in (
            b'"model_a":"guide',
            b'"model_b":"guide',
            b'"a":"guide',
            b'"b":"guide',
            b"A = guide",
            b"B = guide",
        ):
            assert told not in held

        terminal.type(LEFT)
        terminal.wait("Your vote: A is better")
        assert NAME not in proxy.of_battles()
        terminal.type("r")
        terminal.wait(lambda text: "A = guide" in text and "B = guide" in text, within=20)
        wait_for(lambda: NAME in proxy.of_battles(), within=5, what="the reveal tells the names")
    finally:
        terminal.close()
