"""Daemons that join daemons."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.controller.heads import Heads
from fcd.settings import ModelSettings, Settings
from tests.daemon.controller.foreign import foreign
from tests.daemon.controller.harness import Daemon, body, running, until


def settings(*models: str) -> Settings:
    made = Settings()
    made.worker.heartbeat_s = 0.1
    for name in models:
        made.models[name] = ModelSettings(path="guide")
    return made


async def join(daemon: Daemon, head: Daemon) -> tuple[int, str]:
    token, _ = await head.security.create("token", name="test", scope="join")
    request = {"url": f"{head.url}/", "token": token}
    answer = await daemon.http.post("/api/heads", json=request, headers=daemon.admin)
    said = body(answer)
    return answer.status_code, said["error"]["message"] if answer.status_code >= 400 else said["state"]


def served(daemon: Daemon) -> set[str]:
    return {name for worker in daemon.controller.workers() if worker.state == "ready" for name in worker.models}


def test_a_daemon_offers_its_models_at_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path / "head") as head:
            async with running(tmp_path / "low", settings=settings("low-model")) as low:
                assert await join(low, head) == (200, "joined")
                await until(lambda: served(head) == {"low-model"})
                lease = await head.controller.acquire("low-model")
                assert (f"http://{lease.target.host}:{lease.target.port}", lease.target.dialect) == (low.url, "openai")
                # The head's key opens the joined daemon's inference routes, and nothing else.
                key = {"Authorization": f"Bearer {lease.target.api_key}"}
                assert (await low.http.post("/list_models", headers=key)).status_code == 200
                assert (await low.http.get("/api/workers", headers=key)).status_code == 403
                lease.release()
                assert low.security._has_keys() is False
                # What this machine has itself stays its own.
                assert "guide" not in served(head)
                # New models are offered as they come.
                async with foreign("late") as worker:
                    await low.http.post("/register_worker", json=worker.registration(), headers=await low.join_token())
                    await until(lambda: served(head) == {"low-model", "late"})
                url = f"{low.url}/api/heads"
                shown = (await low.http.get(url, headers=low.admin)).text
                assert not any(secret in shown for secret in SECRETS)
            await until(lambda: not served(head), what="it is known to be gone")
            async with running(tmp_path / "low", settings=settings("low-model")):
                await until(lambda: served(head) == {"low-model"}, what="it joined again by itself")

    asyncio.run(main())


SECRETS = {"fcd-p-", "fcd-j-"}


def test_a_head_that_forgot_everything_is_joined_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            running(tmp_path / "head") as head,
            running(tmp_path / "low", settings=settings("low-model")) as low,
        ):
            await join(low, head)
            await until(lambda: served(head) == {"low-model"})
            (worker,) = head.controller.workers()
            await head.controller.stop_worker(worker.name)
            assert served(head) == set()
            await until(lambda: served(head) == {"low-model"})
            left = await low.http.post("/api/heads/leave", json={"url": head.url}, headers=low.admin)
            assert left.status_code == 200
            assert head.controller.workers() == [], "the head is told"
            assert body(await low.http.get("/api/heads", headers=low.admin)) == {"heads": []}

    asyncio.run(main())


def test_rings_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            running(tmp_path / "a", settings=settings("of-a")) as a,
            running(tmp_path / "b", settings=settings("of-b")) as b,
            running(tmp_path / "c", settings=settings("of-c")) as c,
        ):
            status, said = await join(a, a)
            assert (status, "ring" in said) == (409, True)
            assert (await join(a, b))[0] == 200
            assert (await join(b, a))[0] == 409
            assert (await join(b, c))[0] == 200
            # a learns of c by its next heartbeat at b.
            await until(lambda: c.controller.heads.id in a.controller.heads.ancestors)
            status, said = await join(c, a)
            assert (status, "ring" in said) == (409, True)
            assert c.controller.heads.list() == []
            # b offers c its own models only: nothing can come back in a circle.
            await until(lambda: served(c) == {"of-b"})

    asyncio.run(main())


def test_what_cannot_be_joined_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def refused(daemon: Daemon, url: str, token: str = "x") -> str:
        answer = await daemon.http.post("/api/heads", json={"url": url, "token": token}, headers=daemon.admin)
        assert answer.status_code >= 400
        message: str = body(answer)["error"]["message"]
        return message

    async def main() -> None:
        async with running(tmp_path / "a", settings=settings("m")) as a, running(tmp_path / "b") as b:
            assert "does not answer" in await refused(a, "http://127.0.0.1:1")
            assert "like http://" in await refused(a, "localhost:8000")
            assert "join token" in await refused(a, b.url, "nobody's")
            assert "listens on 127.0.0.1 only" in await refused(a, "http://10.0.0.1:8000")
            async with foreign() as other:
                assert "not a daemon of fcd" in await refused(a, other.url)
            status, said = await join(b, a)
            assert (status, "no model that this daemon has not itself" in said) == (409, True)
            assert isinstance(a.controller.heads, Heads)
            assert a.controller.heads.list() == []

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/api/heads", "/api/heads/leave"])
def test_only_the_owner_may(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            answer = await daemon.http.post(path, json={"url": "http://x", "token": "t"})
            assert answer.status_code == 401

    asyncio.run(main())
