"""A daemon on a real socket that answers by a script, so that tests decide what a client sees and when."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BOUND_S = 30.0


class Pause:
    """A place in an answer where the daemon waits: `reached` tells the test, `go` lets it on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()


class Cut:
    """The connection ends here, without a word."""


class Refuse:
    """The request gets this error instead of an answer; in the middle of an answer it is an `error` event."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


Step = str | Pause | Cut | Refuse
Answer = Sequence[Step]


class FakeDaemon:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        """One for each chat request, in order; when there are none left, the question is echoed."""
        self.finish_reason = "stop"
        self.load_events: list[dict[str, Any]] = []
        self.models = [
            {"name": "guide", "source": "builtin", "state": "ready", "default": True, "context_length": 2048},
            {"name": "other", "source": "cache"},
        ]
        self.workers: list[dict[str, Any]] = [
            {
                "name": "guide",
                "models": ["guide"],
                "state": "ready",
                "device": "cpu",
                "pid": 4711,
                "context_length": 2048,
            }
        ]
        self.requests: list[tuple[str, str, Any]] = []
        self.dropped = threading.Event()
        """A client went away in the middle of an answer."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def chats(self) -> list[dict[str, Any]]:
        """Bodies of the chat requests so far."""
        return [body for _, path, body in self.requests if path == "/v1/chat/completions"]

    def loads(self) -> list[dict[str, Any]]:
        return [body for _, path, body in self.requests if path == "/api/models/load"]


@contextmanager
def fake_daemon() -> Iterator[FakeDaemon]:
    daemon = FakeDaemon()
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def _handler(daemon: FakeDaemon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            daemon.requests.append(("GET", self.path, None))
            answers: dict[str, Any] = {
                "/health": {},
                "/ready": {},
                "/api/workers": {"workers": daemon.workers},
                "/api/models": {"models": daemon.models},
            }
            if self.path in answers:
                self._json(200, answers[self.path])
            else:
                self._json(404, {"error": {"message": f"no {self.path}", "code": "not_found"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            daemon.requests.append(("POST", self.path, body))
            if self.path == "/api/models/load":
                self._load(body)
            elif self.path == "/api/models/unload":
                self._json(200, {})
            else:
                self._chat(body)

        def _load(self, body: dict[str, Any]) -> None:
            if body["model"] == "nosuch":
                message = "The model 'nosuch' does not exist here."
                self._json(404, {"error": {"message": message, "code": "model_not_found", "param": "model"}})
                return
            self._begin()
            worker = {**daemon.workers[0], "models": [body["model"]], "name": body["model"]}
            for event in daemon.load_events or [{"type": "ready", "model": body["model"], "worker": worker}]:
                self._event(event)
            self._end()

        def _chat(self, body: dict[str, Any]) -> None:
            steps: Answer = (
                daemon.answers.pop(0) if daemon.answers else [f"You said: {body['messages'][-1]['content']}"]
            )
            if steps and isinstance(steps[0], Refuse):
                self._json(steps[0].status, steps[0].body)
                return
            self._begin()
            written = 0
            for step in steps:
                if isinstance(step, Pause):
                    step.reached.set()
                    if not self._wait(step):
                        return
                elif isinstance(step, Cut):
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                elif isinstance(step, Refuse):
                    self._event(step.body, name="error")
                    self._end()
                    return
                else:
                    written += 1
                    self._event({"choices": [{"index": 0, "delta": {"content": step}, "finish_reason": None}]})
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": daemon.finish_reason}]})
            self._event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": written}})
            self._data(b"data: [DONE]\n\n")
            self._end()

        def _wait(self, pause: Pause) -> bool:
            """False when the client went away meanwhile."""
            for _ in range(int(BOUND_S / 0.01)):
                if pause.go.wait(0.01):
                    return True
                readable, _, _ = select.select([self.connection], [], [], 0)
                if readable and self.connection.recv(1, socket.MSG_PEEK) == b"":
                    daemon.dropped.set()
                    self.close_connection = True
                    return False
            return False

        def _begin(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def _event(self, value: Any, *, name: str = "") -> None:
            head = f"event: {name}\n" if name else ""
            self._data(f"{head}data: {json.dumps(value)}\n\n".encode())

        def _data(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _end(self) -> None:
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()

        def _json(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def handle(self) -> None:
            with suppress(OSError):
                super().handle()

        def log_message(self, format: str, *args: Any) -> None: ...

    return Handler
