"""Servers of others that the owner attaches as workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from daemon.controller.attach import _leads_to
from tests.daemon.controller.foreign import foreign
from tests.daemon.controller.harness import Daemon, body, running, until
from tests.daemon.harness import Received, whole

KEY = "sk-very-secret"


class Server:
    """An OpenAI-compatible server that wants a key."""

    def __init__(self) -> None:
        self.models = ["big-1", "small"]
        self.asked: list[Received] = []
        self.status = "200 OK"
        self.headers: tuple[str, ...] = ()
        self.answer: Any = None
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from tests.daemon.harness import read_request

        try:
            while (request := await read_request(reader)) is not None:
                self.asked.append(request)
                listed = {"object": "list", "data": [{"id": name} for name in self.models]}
                answer, status = self.answer or listed, self.status
                if request.headers.get("authorization") != f"Bearer {KEY}":
                    status, answer = "401 Unauthorized", {"error": {"message": "no key"}}
                writer.write(whole(status, json.dumps(answer).encode(), *self.headers))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def openai_server() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


async def attach(daemon: Daemon, url: str, **fields: Any) -> httpx.Response:
    request = {"url": url, "api_key": KEY, **fields}
    return await daemon.http.post("/api/workers/attach", json=request, headers=daemon.admin)


def test_a_server_is_attached_used_and_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        async with openai_server() as server:
            async with running(tmp_path) as daemon:
                made = await attach(daemon, f"{server.url}/v1/", name="cloud", models={"mine": "big-1"})
                assert made.status_code == 200, made.text
                assert (made.json()["name"], made.json()["models"]) == ("cloud", ["mine"])
                assert server.asked[0].path == "/v1/models"
                lease = await daemon.controller.acquire("mine")
                assert (lease.target.api_key, lease.target.names) == (KEY, {"mine": "big-1"})
                lease.release()
                shown = await daemon.http.get("/api/workers", headers=daemon.admin)
                assert KEY not in shown.text
                stop = await daemon.http.delete("/api/workers/cloud", headers=daemon.admin)
                assert "detach" in body(stop)["error"]["message"]
                # FastChat's refresh does not lose what knows nothing of controllers.
                await daemon.http.post("/refresh_all_workers", headers=await daemon.join_token())
                assert daemon.controller.worker("cloud") is not None
            async with running(tmp_path) as daemon:
                lease = await daemon.controller.acquire("mine")
                assert lease.target.api_key == KEY
                lease.release()
                gone = await daemon.http.post("/api/workers/cloud/detach", headers=daemon.admin)
                assert gone.status_code == 200
                assert daemon.controller.workers() == []
                again = await daemon.http.post("/api/workers/cloud/detach", headers=daemon.admin)
                assert again.status_code == 404
            async with running(tmp_path) as daemon:
                assert daemon.controller.workers() == []

    asyncio.run(main())


def test_without_names_all_that_it_lists_is_used(tmp_path: Path) -> None:
    async def main() -> None:
        async with openai_server() as server, running(tmp_path) as daemon:
            made = await attach(daemon, server.url)
            assert made.json()["models"] == ["big-1", "small"]
            assert made.json()["name"] == server.url.removeprefix("http://")
            await until(lambda: daemon.controller.workers()[0].state == "ready")

    asyncio.run(main())


def test_what_cannot_be_used_is_refused_with_the_next_step(tmp_path: Path) -> None:
    async def refused(daemon: Daemon, url: str, status: int, says: str, **fields: Any) -> None:
        answer = await attach(daemon, url, **fields)
        assert answer.status_code == status, answer.text
        assert says in body(answer)["error"]["message"]
        assert KEY not in answer.text

    async def main() -> None:
        async with openai_server() as server, running(tmp_path) as daemon:
            await refused(daemon, "http://127.0.0.1:1", 502, "does not answer")
            await refused(daemon, "ftp://x", 400, "http://")
            await refused(daemon, f"{server.url}/a?b=c", 400, "query")
            await refused(daemon, "http://user:password@127.0.0.1:1", 400, "user")
            await refused(daemon, server.url, 502, "--key-file", api_key="")
            await refused(daemon, server.url, 502, "did not take the key", api_key="other")
            await refused(daemon, server.url, 409, "guide", models={"guide": "big-1"})
            await refused(daemon, server.url, 400, "big-1", models={"x": "big"})
            await refused(daemon, server.url, 400, "letters", name="a b")
            server.models = ["guide"]
            await refused(daemon, server.url, 409, "--model OTHER=guide")
            server.models = []
            await refused(daemon, server.url, 502, "no models")
            server.answer = {"data": "nonsense"}
            await refused(daemon, server.url, 502, "list of models")
            server.status, server.headers = "302 Found", ("Location: http://169.254.169.254/latest",)
            await refused(daemon, server.url, 502, "redirect")
            assert [request.path for request in server.asked if "latest" in request.path] == []
            assert daemon.controller.workers() == []
            anonymous = await daemon.http.post("/api/workers/attach", json={"url": server.url})
            assert anonymous.status_code == 401

    asyncio.run(main())


def test_a_daemon_is_not_attached_to_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            for url in (daemon.url, daemon.url.replace("127.0.0.1", "localhost"), f"{daemon.url}/v1"):
                answer = await attach(daemon, url, name="me", models={"mine": "guide"})
                assert (answer.status_code, answer.json()["error"]["code"]) == (409, "loop"), url
                assert "fcd alias" in answer.json()["error"]["message"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "host", "port", "leads"),
    [
        ("http://127.0.0.2:8000", "0.0.0.0", 8000, True),
        ("http://127.0.0.1:8001", "0.0.0.0", 8000, False),
        ("http://192.0.2.1:8000", "0.0.0.0", 8000, False),
        ("http://127.0.0.2:8000", "127.0.0.1", 8000, False),
        ("http://127.0.0.1", "127.0.0.1", 80, True),
    ],
)
def test_which_urls_lead_back(url: str, host: str, port: int, leads: bool) -> None:
    assert _leads_to(url, host, f"http://127.0.0.1:{port}") is leads


def test_what_went_round_is_told_no_addresses_and_served_here_where_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def chat(daemon: Daemon) -> httpx.Response:
        asked = {"model": "mine", "messages": [{"role": "user", "content": "Hi"}]}
        return await daemon.http.post("/v1/chat/completions", json=asked, headers={**daemon.admin, "X-Fcd-Hops": "4"})

    async def main() -> None:
        async with openai_server() as server, running(tmp_path) as daemon:
            await attach(daemon, server.url, models={"mine": "big-1"})
            (await daemon.controller.acquire("mine")).release()
            got = await chat(daemon)
            error = body(got)["error"]
            assert (got.status_code, error["code"]) == (508, "loop")
            assert "127.0.0.1" not in got.text
            assert server.url in caplog.text
            assert daemon.url in caplog.text
            async with foreign("mine") as worker:
                token = await daemon.join_token()
                await daemon.http.post("/register_worker", json=worker.registration(), headers=token)
                served = [await daemon.controller.acquire("mine", ends_here=True) for _ in range(3)]
                assert {lease.target.worker for lease in served} == {worker.url.removeprefix("http://")}
                for lease in served:
                    lease.release()

    asyncio.run(main())


def test_nobody_else_may_take_an_attached_servers_place(tmp_path: Path) -> None:
    async def main() -> None:
        async with openai_server() as server, running(tmp_path) as daemon:
            await attach(daemon, server.url, name="cloud")
            status = {"model_names": ["other"], "speed": 1, "queue_length": 0}
            claim = {"worker_name": server.url, "check_heart_beat": True, "worker_status": status}
            answer = await daemon.http.post("/register_worker", json=claim, headers=await daemon.join_token())
            assert answer.status_code == 409

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/api/workers/attach", "/api/workers/x/detach"])
def test_only_the_owner_may(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            answer = await daemon.http.post(path, json={"url": "http://x"}, headers=await daemon.join_token())
            assert answer.status_code == 403

    asyncio.run(main())


@pytest.mark.parametrize(
    ("listed", "asked", "sees"),
    [
        ({"data": [{"id": "big-1"}]}, None, False),
        ({"data": [{"id": "big-1"}]}, True, True),
        ({"data": [{"id": "big-1"}], "models": [{"name": "big-1", "capabilities": ["multimodal"]}]}, None, True),
        ({"data": [{"id": "big-1", "architecture": {"input_modalities": ["text", "image"]}}]}, None, True),
        ({"data": [{"id": "big-1", "architecture": {"input_modalities": ["image"]}}]}, False, False),
        ({"data": [{"id": "big-1", "capabilities": ["vision"]}, {"id": "small"}]}, None, False),
    ],
)
def test_images_go_to_servers_that_say_they_see(tmp_path: Path, listed: Any, asked: bool | None, sees: bool) -> None:
    async def main() -> None:
        async with openai_server() as server:
            server.answer = listed
            async with running(tmp_path) as daemon:
                made = await attach(daemon, server.url, vision=asked)
                assert made.json().get("capabilities", []) == (["vision"] if sees else [])
            async with running(tmp_path) as daemon:
                lease = await daemon.controller.acquire("big-1")
                assert lease.target.images == ("takes" if sees else "refuses")
                lease.release()
                await until(lambda: daemon.controller.workers()[0].state == "ready")
                cards = body(await daemon.http.get("/v1/models", headers=daemon.admin))["data"]
                card = next(card for card in cards if card["id"] == "big-1")
                assert card.get("capabilities", []) == (["vision"] if sees else [])
                multimodal = await daemon.http.post("/list_multimodal_models", headers=await daemon.join_token())
                assert ("big-1" in body(multimodal)["models"]) is sees

    asyncio.run(main())
