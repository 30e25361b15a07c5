"""Downloads that the daemon runs: begun, paused, gone on with, cancelled; over HTTP from a hub of the test's own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from daemon.controller.downloads import AT_ONCE, Downloads, Step
from fcd.errors import ApiError, ModelLoadError
from fcd.paths import resolve_paths
from fcd.wire.admin import Progress
from fcd.wire.downloads import DownloadRequest
from tests.e2e.harness import Home, wait_for
from tests.fcd.test_catalog import LLAMA
from tests.fcd.test_download import WEIGHTS, FakeHub


class Source:
    """Gives ten steps to each download, one whenever it is let."""

    def __init__(self) -> None:
        self.arrived: dict[str, int] = {}
        self.let = threading.Semaphore(0)
        self.forgotten: list[str] = []
        self.error: Exception | None = None

    def fetch(self, request: DownloadRequest, step: Step) -> Path:
        while self.arrived.get(request.repo, 0) < 10:
            self.let.acquire(timeout=10)
            if self.error is not None:
                raise self.error
            step(Progress("downloading", self.arrived.get(request.repo, 0), 10, "B"))
            self.arrived[request.repo] = self.arrived.get(request.repo, 0) + 1
        return Path()

    def allow(self, count: int) -> None:
        for _ in range(count):
            self.let.release()


async def until(condition: Callable[[], object], within: float = 20.0) -> None:
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "not in time"
        await asyncio.sleep(0.01)


def test_pause_go_on_and_cancel() -> None:
    async def main() -> None:
        source, told = Source(), []
        downloads = Downloads(lambda: told.append(1), source.fetch, source.forgotten.append)

        def state(repo: str = "a/b") -> str:
            return next((one.state for one in downloads.list().downloads if one.repo == repo), "")

        assert downloads.start(DownloadRequest("a/b")).state == "downloading"
        source.allow(3)
        await until(lambda: source.arrived.get("a/b") == 3)
        assert downloads.list().downloads[0].progress == Progress("downloading", 2, 10, "B")
        downloads.pause("a/b")
        assert state() == "stopping"
        with pytest.raises(ApiError, match="just being stopped"):
            downloads.start(DownloadRequest("a/b"))
        source.allow(1)
        await until(lambda: state() == "paused")
        assert source.arrived["a/b"] == 3
        downloads.start(DownloadRequest("a/b"))
        source.allow(7)
        await until(lambda: state() == "done")
        assert told
        downloads.cancel("a/b")
        assert state() == ""
        assert source.forgotten == []  # what is whole stays

        downloads.start(DownloadRequest("c/d"))
        downloads.cancel("c/d")
        assert state("c/d") == "stopping"
        source.allow(1)
        await until(lambda: state("c/d") == "")
        await until(lambda: source.forgotten == ["c/d"])

    asyncio.run(main())


def test_what_is_cancelled_is_gone_before_it_can_begin_again() -> None:
    async def main() -> None:
        source, removing, removed = Source(), threading.Event(), threading.Event()

        def forget(repo: str) -> None:
            removing.set()
            removed.wait(10)

        downloads = Downloads(lambda: None, source.fetch, forget)
        downloads.start(DownloadRequest("a/b"))
        downloads.pause("a/b")
        source.allow(1)
        await until(lambda: downloads.list().downloads[0].state == "paused")
        downloads.cancel("a/b")
        await until(removing.is_set)
        with pytest.raises(ApiError, match="just being stopped"):
            downloads.start(DownloadRequest("a/b"))
        removed.set()
        await until(lambda: not downloads.list().downloads)
        assert downloads.start(DownloadRequest("a/b")).state == "downloading"
        downloads.close()
        source.allow(1)

    asyncio.run(main())


def test_failures_are_told_and_the_number_is_bounded() -> None:
    async def main() -> None:
        source = Source()
        downloads = Downloads(lambda: None, source.fetch, source.forgotten.append)
        source.error = ModelLoadError("The disk is full.", hint="Make room.")
        source.allow(1)
        downloads.start(DownloadRequest("a/b"))
        await until(lambda: downloads.list().downloads[0].state == "failed")
        assert "The disk is full" in downloads.list().downloads[0].error
        source.error = None
        for number in range(AT_ONCE):
            downloads.start(DownloadRequest(f"more/{number}"))
        with pytest.raises(ApiError) as refusal:
            downloads.start(DownloadRequest("too/many"))
        assert refusal.value.status == 429
        for call in (downloads.pause, downloads.cancel):
            with pytest.raises(ApiError) as refusal:
                call("not/there")
            assert refusal.value.status == 404
        for name in ("", "../up", "no-slash", "/etc/passwd"):
            with pytest.raises(ApiError) as refusal:
                downloads.start(DownloadRequest(name))
            assert refusal.value.status == 400
        for revision in ("../../x", "/etc/hostname", "a b", "-x"):
            with pytest.raises(ApiError) as refusal:
                downloads.start(DownloadRequest("an/other", revision))
            assert refusal.value.param == "revision"
        downloads.close()
        source.allow(20)

    asyncio.run(main())


def test_a_daemon_downloads_from_a_hub(tmp_path: Path) -> None:
    """Paused in the middle of the weights, gone on with from there, and then among the models."""
    hub = FakeHub(
        {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": WEIGHTS * 8, "tokenizer.json": b"{}"}
    )
    hub.cut, hub.stall = len(WEIGHTS), threading.Event()
    home = Home(tmp_path)
    home.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    home.environ.pop("HF_HUB_OFFLINE")
    try:
        home.fcd("daemon", "start")
        token = resolve_paths({"FCD_HOME": str(tmp_path)}).admin_token.read_text().strip()
        with httpx.Client(base_url=home.url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:

            def state() -> str:
                (one,) = client.get("/api/downloads").json()["downloads"]
                return f"{one['state']} {one.get('error', '')}".strip()

            assert client.post("/api/downloads", json={"repo": "some/model"}).status_code == 202
            wait_for(hub.stalled.is_set, within=30)
            assert state() == "downloading"
            assert client.post("/api/downloads/pause", json={"repo": "some/model"}).status_code == 200
            hub.cut = 0
            hub.stall.set()
            wait_for(lambda: state() == "paused", within=30)
            client.post("/api/downloads", json={"repo": "some/model"})
            wait_for(lambda: state() == "done", within=30)
            assert any(wanted != "bytes=0-" for wanted in hub.ranges), hub.ranges
            names = [model["name"] for model in client.get("/api/models").json()["models"]]
            assert "some/model" in names
            assert client.get("/api/downloads", headers={"Authorization": ""}).status_code == 401
    finally:
        home.stop()
        hub.stop()
