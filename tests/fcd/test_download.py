"""Downloads from a hub that the test serves: progress, resuming, and what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from fcd.catalog.blobs import Blob, fetch_blobs
from fcd.catalog.download import choose_files
from fcd.errors import ModelLoadError
from tests.fcd.terminal import ROOT, environment, fcd, terminal
from tests.fcd.test_catalog import LLAMA

COMMIT = "c" * 40
WEIGHTS = bytes(range(256)) * 8192


class FakeHub:
    """One repo, `some/model`. `cut` bytes into each answer with weights the connection ends."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.cut = 0
        self.stall: threading.Event | None = None
        """After `cut` bytes the connection stays open and silent until this is set."""
        self.stalled = threading.Event()
        self.spoil = False
        self.ranges: list[str] = []
        self.fetched: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def entry(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/api/models/some/model/tree/"):
                self._json([hub.entry(name) for name in hub.files])
            elif path in ("/api/models/some/model", "/api/models/some/model/revision/main"):
                siblings = []
                for name, data in hub.files.items():
                    entry = hub.entry(name)
                    sibling = {"rfilename": name, "size": len(data), "blobId": entry["oid"]}
                    if "lfs" in entry:
                        lfs = entry["lfs"]
                        sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 130}
                    siblings.append(sibling)
                self._json({"id": "some/model", "modelId": "some/model", "sha": COMMIT, "siblings": siblings})
            elif path.startswith("/some/model/resolve/"):
                self._file(path.split("/", 5)[5])
            else:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        def _file(self, name: str) -> None:
            data = hub.files[name]
            etag = hub.entry(name).get("lfs", {}).get("oid") or hub.entry(name)["oid"]
            begin = 0
            wanted = self.headers.get("Range")
            if wanted and self.command == "GET":
                hub.ranges.append(wanted)
                begin = int(wanted.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if begin else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data) - begin))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            hub.fetched.append(name)
            if hub.spoil and name.endswith(".safetensors"):
                data = bytes(len(data))
            if hub.cut and name.endswith(".safetensors"):
                self.wfile.write(data[begin : begin + hub.cut])
                self.wfile.flush()
                self.close_connection = True
                if hub.stall is not None:
                    hub.stalled.set()
                    hub.stall.wait(30)
            else:
                self.wfile.write(data[begin:])

        def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None: ...

    return Handler


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    fake = FakeHub(
        {
            "config.json": json.dumps(LLAMA).encode(),
            "model.safetensors": WEIGHTS,
            "tokenizer.json": b"{}",
            "modeling_evil.py": b"import os",
            "pytorch_model.bin": b"pickle",
            "onnx/model.onnx": b"x",
        }
    )
    try:
        yield fake
    finally:
        fake.stop()


@pytest.fixture
def env(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    return environment(
        tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1"
    )


def test_pull_takes_what_is_needed_and_nothing_that_runs(hub: FakeHub, env: dict[str, str]) -> None:
    done = fcd("pull", "some/model", env=env)
    assert done.returncode == 0, done.stderr
    assert "some/model is here (2.1 MB)" in done.stdout
    assert sorted(set(hub.fetched)) == ["config.json", "model.safetensors", "tokenizer.json"]
    shown = json.loads(fcd("ls", "--json", env=env).stdout)["models"]
    assert "some/model" in [model["name"] for model in shown]
    hub.fetched.clear()
    assert fcd("pull", "some/model", env=env).returncode == 0
    assert hub.fetched == [], "what is here is not fetched again"
    assert "are free again" in fcd("rm", "some/model", "--yes", env=env).stdout


def test_pull_shows_a_bar_on_a_terminal(env: dict[str, str]) -> None:
    with terminal("pull", "some/model", env=env) as shown:
        assert shown.wait() == 0, shown.plain
    assert "some/model: downloading" in shown.plain
    assert "2.1 MB/2.1 MB" in shown.plain


def test_connections_that_break_are_taken_up_again(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    hub.cut = 700_000
    assert fcd("pull", "some/model", env=env).returncode == 0
    assert hub.ranges == ["bytes=0-", "bytes=700000-", "bytes=1400000-"]
    assert weights(tmp_path) == WEIGHTS


def test_a_pull_that_was_killed_goes_on_where_it_stopped(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    hub.stall = threading.Event()
    hub.cut = 1_000_000
    process = subprocess.Popen([sys.executable, "-m", "fcd", "pull", "some/model"], env=env, cwd=ROOT)
    try:
        assert hub.stalled.wait(30)
        blobs = tmp_path / "hf" / "hub" / "models--some--model" / "blobs"
        deadline = time.monotonic() + 30
        while sum(file.stat().st_size for file in blobs.glob("*.incomplete")) < 500_000:
            assert time.monotonic() < deadline
    finally:
        process.kill()
        process.wait()
    hub.stall.set()
    hub.stall, hub.cut = None, 0
    shown = fcd("show", "some/model", env=env).stdout
    assert "fcd pull some/model" in shown, "half a model is none"
    hub.ranges.clear()
    assert fcd("pull", "some/model", env=env).returncode == 0
    (wanted,) = hub.ranges
    assert int(wanted.removeprefix("bytes=").removesuffix("-")) >= 500_000
    assert weights(tmp_path) == WEIGHTS
    assert [file.name for file in blobs.iterdir() if file.suffix] == []


def test_ctrl_c_ends_a_pull_at_once(hub: FakeHub, env: dict[str, str]) -> None:
    hub.stall = threading.Event()
    hub.cut = 1_000_000
    with terminal("pull", "some/model", env=env) as shown:
        assert hub.stalled.wait(30)
        shown.send("\x03")
        shown.expect("goes on where this ended", within=10)
        assert shown.wait(within=10) == 130
        hub.stall.set()
    assert "Traceback" not in shown.seen


def test_a_file_that_was_changed_on_its_way_is_thrown_away(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    hub.spoil = True
    done = fcd("pull", "some/model", env=env)
    assert done.returncode == 1
    assert "its hash differs" in done.stderr
    hub.spoil = False
    assert fcd("pull", "some/model", env=env).returncode == 0
    assert weights(tmp_path) == WEIGHTS


def weights(home: Path) -> bytes:
    (snapshot,) = (home / "hf" / "hub" / "models--some--model" / "snapshots").iterdir()
    return (snapshot / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["../../evil", "", "A" * 64, "/tmp/evil"])
def test_a_hub_does_not_choose_where_files_go(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no SHA-256"):
        fetch_blobs([Blob("model.safetensors", "http://127.0.0.1:9/x", name, 5)], tmp_path / "a" / "b", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_repo_that_is_not_there(env: dict[str, str]) -> None:
    done = fcd("pull", "some/other", env=env)
    assert done.returncode == 4
    assert "no model some/other" in done.stderr


def test_a_hub_that_is_not_there(env: dict[str, str]) -> None:
    done = fcd("pull", "some/model", env={**env, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "could not be downloaded" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_pickle_is_taken_only_when_asked_for(hub: FakeHub, env: dict[str, str]) -> None:
    del hub.files["model.safetensors"]
    done = fcd("pull", "some/model", env=env)
    assert done.returncode == 1
    assert "--allow-pickle" in done.stderr
    assert fcd("pull", "some/model", "--allow-pickle", env=env).returncode == 0
    assert "pytorch_model.bin" in hub.fetched


def test_choose_files() -> None:
    wanted = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model"]
    others = ["consolidated.safetensors", "pytorch_model.bin", "original/x.safetensors", "README.md", "run.py"]
    assert choose_files([*others, *wanted]) == wanted
    with pytest.raises(ModelLoadError, match=r"it has x\.gguf"):
        choose_files(["x.gguf", "README.md"], allow_pickle=True)
    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        choose_files(["adapter_model.safetensors"])
