"""A whole daemon: its config.toml changed and broken while it runs, and requests that would have it fetch things."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.e2e.harness import Home, chat, running_daemon, wait_for

pytestmark = pytest.mark.slow


def test_16_a_running_daemon_and_its_config_file(tmp_path: Path) -> None:
    config = tmp_path / "config" / "config.toml"
    config.parent.mkdir()
    config.write_text('[models.brief]\npath = "guide"\nmax_tokens = 2\n')
    with running_daemon(tmp_path) as home:
        assert chat(home.url, "What is fcd?", model="brief", ignore_eos=True)["usage"]["completion_tokens"] == 2
        worker = home.worker_pid("brief")
        config.write_text('[models.brief]\npath = "guide"\nmax_tokens = "many"\n')
        shown = wait_for(lambda: home.status()["warnings"], within=20, what="the mistake is shown")
        assert "line 3" in shown[0]
        assert "line 3" in home.fcd("daemon", "status").stdout
        assert "line 3" in home.fcd("daemon", "logs").stdout
        ready = httpx.get(f"{home.url}/ready")
        assert ready.status_code == 200
        assert ready.json()["warnings"] == shown
        assert chat(home.url, "What is fcd?", model="brief", ignore_eos=True)["usage"]["completion_tokens"] == 2
        assert home.worker_pid("brief") == worker
        config.write_text('[models.brief]\npath = "guide"\nmax_tokens = 3\n')
        os.kill(home.status()["pid"], signal.SIGHUP)
        wait_for(lambda: not home.status()["warnings"], within=20, what="the good file is in force")
        wait_for(
            lambda: chat(home.url, "What?", model="brief", ignore_eos=True)["usage"]["completion_tokens"] == 3,
            what="the worker started again with the new default",
        )
        assert home.worker_pid("brief") != worker
        sockets = Path(home.environ["FCD_HOME"]) / "runtime"
        assert list(sockets.glob("settings.json"))
    assert not list(sockets.glob("settings.json"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/x.png",
        "http:\\\\127.0.0.1:{port}/x.png",
        "https://127.0.0.1:{port}/x.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
    ],
)
def test_21_no_image_is_fetched(shared_daemon: Home, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        called = threading.Event()

        def accept() -> None:
            try:
                listener.accept()
                called.set()
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        address = url.replace("{port}", str(listener.getsockname()[1]))
        content: list[Any] = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": address}},
        ]
        body = {"model": "guide", "messages": [{"role": "user", "content": content}]}
        answer = httpx.post(f"{shared_daemon.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].startswith("messages")
        assert not called.is_set()
