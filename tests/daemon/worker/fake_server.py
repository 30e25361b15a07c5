"""A small OpenAI-compatible server, as a command starts one: `fake_server.py MODEL PORT [--fail] [--slow S] [--fork]`.

It serves what it was given under its own name, `served`, and ends with its last words at once (--fail).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path in ("/healthy", "/health"):
            self._json({"ok": True})
        elif self.path == "/v1/models":
            self._json({"data": [{"id": "served", "max_model_len": 512}]})
        else:
            self._json({"error": {"message": "no such route"}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
        if self.path == "/tokenize":
            self._json({"tokens": body["content"].split()})
        elif self.path == "/v1/embeddings":
            data = [{"index": at, "embedding": [float(at), 1.0]} for at in range(len(body["input"]))]
            self._json({"data": data, "usage": {"prompt_tokens": 3}})
        elif self.path == "/v1/completions" and body.get("stream"):
            self._stream(body)
        elif self.path.startswith("/v1/"):
            self._json({"model": body["model"], "env": os.environ.get("GREETING"), "choices": []})
        else:
            self._json({}, 404)

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        words = ["one ", "two ", "three"]
        for position, word in enumerate(words):
            reason = "stop" if position == len(words) - 1 else None
            chunk = {"choices": [{"index": 0, "text": word, "finish_reason": reason}], "model": body["model"]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        usage = {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}}
        self.wfile.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())

    def _json(self, answer: Any, status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    model, port = sys.argv[1], int(sys.argv[2])
    print(f"loading {model}", flush=True)
    if "--fail" in sys.argv:
        print("the model is broken", flush=True)
        sys.exit(5)
    if os.environ.get("PIDS"):
        with Path(os.environ["PIDS"]).open("a") as pids:
            pids.write(f"{os.getpid()}\n")
            if "--fork" in sys.argv:
                # One that does not care for signals.
                child = subprocess.Popen(["sh", "-c", "trap '' TERM INT; while :; do sleep 1; done"])
                pids.write(f"{child.pid}\n")
    if "--stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("STOPPED"):
        signal.signal(signal.SIGINT, lambda *_: (Path(os.environ["STOPPED"]).write_text("SIGINT"), os._exit(0)))
    if "--slow" in sys.argv:
        time.sleep(1.0)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
