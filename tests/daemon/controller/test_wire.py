"""FastChat's controller routes, to the byte where it matters, with workers that come from elsewhere."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from daemon.scheduler import Config
from fcd.errors import ApiError
from fcd.settings import ModelSettings, Settings
from fcd.wire.admin import LoadRequest
from tests.daemon.controller.foreign import foreign
from tests.daemon.controller.harness import Daemon, FakeSpawn, running, state_of, until


async def post(daemon: Daemon, path: str, body: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
    return (
        await daemon.http.post(path, json=body, headers=headers) if body is not None else await daemon.http.post(path)
    )


def foreign_state(daemon: Daemon) -> str:
    found = [worker for worker in daemon.controller.supervisor.state.workers.values() if not worker.local]
    return found[0].state if found else "gone"


def test_an_empty_controller(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            for path in ("/list_models", "/list_language_models", "/list_multimodal_models"):
                assert (await post(daemon, path)).content == b'{"models":[]}'
            assert (await post(daemon, "/get_worker_address", {"model": "x"})).content == b'{"address":""}'
            status = (await post(daemon, "/worker_get_status")).json()
            assert status == {"model_names": [], "speed": 0, "queue_length": 0}
            assert (await daemon.http.get("/test_connection")).content == b'"success"'
            token = await daemon.join_token()
            beat = {"worker_name": "http://nobody:1", "queue_length": 1}
            assert (await post(daemon, "/receive_heart_beat", beat, token)).content == b'{"exist":false}'
            assert (await daemon.http.post("/refresh_all_workers", headers=token)).content == b"null"

    asyncio.run(main())


def test_a_worker_of_fastchat_joins_and_serves(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("vicuna", "koala") as worker:
            token = await daemon.join_token()
            answer = await post(daemon, "/register_worker", worker.registration(), token)
            assert (answer.status_code, answer.content) == (200, b"null")
            assert (await post(daemon, "/list_models")).json() == {"models": ["koala", "vicuna"]}
            assert (await post(daemon, "/list_multimodal_models")).json() == {"models": []}
            assert (await post(daemon, "/get_worker_address", {"model": "koala"})).json() == {"address": worker.url}
            lease = await daemon.controller.acquire("vicuna")
            assert (lease.target.dialect, f"http://{lease.target.host}:{lease.target.port}") == ("fastchat", worker.url)
            lease.release()
            beat = {"worker_name": worker.url, "queue_length": 7}
            assert (await post(daemon, "/receive_heart_beat", beat, token)).content == b'{"exist":true}'
            assert (await post(daemon, "/receive_heart_beat", beat, token)).content == b'{"exist":true}'
            assert (await post(daemon, "/worker_get_status")).json()["queue_length"] == 7
            frames = await post(daemon, "/worker_generate_stream", {"model": "vicuna", "prompt": "x"})
            assert frames.content.split(b"\0")[1] == b'{"text": "Hi there", "error_code": 0}'

    asyncio.run(main())


def test_a_worker_of_fcd_elsewhere_is_spoken_to_as_openai(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("far") as worker:
            extension = {"openai_url": f"{worker.url}/base", "engine": "vllm", "parallel": 3, "socket": "/etc/passwd"}
            body = worker.registration(fcd=extension)
            assert (await post(daemon, "/register_worker", body, await daemon.join_token())).content == b"null"
            lease = await daemon.controller.acquire("far")
            target = lease.target
            assert (target.dialect, target.base_path, target.socket) == ("openai", "/base", "")
            lease.release()
            (info,) = daemon.controller.workers()
            assert (info.local, info.engine, info.state) == (False, "vllm", "ready")
            events = [event async for event in await daemon.controller.load(LoadRequest("far"))]
            assert [(event.type, event.model) for event in events if event] == [("ready", "far")], "it is up already"
            assert "/base/health" in worker.asked

    asyncio.run(main())


@pytest.mark.parametrize(
    "extension",
    [
        {"openai_url": "http://127.0.0.1:1/a b"},
        {"openai_url": "http://127.0.0.1:1/\u00e9"},
        {"openai_url": "http://127.0.0.2:1"},
        {"api_key": "a\r\nX-Evil: 1"},
        {"api_key": "a" * 600},
    ],
)
def test_nothing_slips_into_request_lines(tmp_path: Path, extension: dict[str, str]) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("x") as worker:
            body = worker.registration(fcd={"openai_url": worker.url, **extension})
            answer = await post(daemon, "/register_worker", body, await daemon.join_token())
            assert answer.status_code == 400

    asyncio.run(main())


def test_the_stream_of_nobody_is_two_frames(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            answer = await post(daemon, "/worker_generate_stream", {"model": "nobody"})
            assert answer.status_code == 200
            frames = answer.content.split(b"\0")
            assert [b'"error_code":50005' in frames[0], b'"error_code":50006' in frames[1], frames[2]] == [
                True,
                True,
                b"",
            ]

    asyncio.run(main())


def test_registering_needs_a_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("x") as worker:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                answer = await post(daemon, "/register_worker", worker.registration(), headers)
                assert answer.status_code == 401
            token = (await daemon.join_token())["Authorization"].removeprefix("Bearer ")
            assert not worker.asked, "nobody is asked before they are trusted"
            assert (await post(daemon, f"/join/{token}/register_worker", worker.registration())).content == b"null"
            assert (await post(daemon, "/list_models")).json() == {"models": ["x"]}

    asyncio.run(main())


@pytest.mark.parametrize("name", ["guide", "guide-mini", "guide@8bit"])
def test_nobody_answers_to_a_name_of_this_machine(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign(name) as worker:
            answer = await post(daemon, "/register_worker", worker.registration(), await daemon.join_token())
            assert (answer.status_code, answer.json()["error"]["param"]) == (409, "model_names")
            assert "--model-names" in answer.json()["error"]["message"]
            assert (await post(daemon, "/list_models")).json() == {"models": []}
            answer = await post(daemon, "/register_worker", worker.registration(), daemon.admin)
            assert answer.content == b"null", "the owner of the machine may"

    asyncio.run(main())


def test_nobody_poses_as_a_local_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("x") as worker:
            (await daemon.controller.acquire("guide")).release()
            (local,) = daemon.controller.workers()
            token = await daemon.join_token()
            claim = worker.registration(fcd={"worker_id": "guide", "openai_url": worker.url})
            assert (await post(daemon, "/register_worker", claim, token)).status_code == 403
            claim = worker.registration(worker_name=local.address)
            assert (await post(daemon, "/register_worker", claim, token)).status_code == 409
            beat = {"worker_name": local.address, "queue_length": 99}
            assert (await post(daemon, "/receive_heart_beat", beat, token)).json() == {"exist": False}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://169.254.169.254/latest", 403),
        ("http://[fe80::1]:80", 403),
        ("http://0.0.0.0:21002", 403),
        ("http://224.0.0.1:21002", 403),
        ("http://[::ffff:169.254.169.254]:80", 403),
        ("file:///etc/passwd", 400),
        ("http://user:word@127.0.0.1:1", 400),
        ("ftp://127.0.0.1", 400),
        ("http://", 400),
        ("http://127.0.0.1:99999", 400),
        ("not a url", 400),
        ("http://no-such-host.invalid:1", 400),
        ("x" * 5000, 400),
    ],
)
def test_addresses_that_are_nobodys_worker(tmp_path: Path, url: str, status: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("x") as worker:
            body = worker.registration(worker_name=url)
            answer = await post(daemon, "/register_worker", body, await daemon.join_token())
            assert answer.status_code == status
            assert answer.json()["error"]["message"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"nope",
        b'{"worker_name": 1, "check_heart_beat": true}',
        b'{"worker_name": "http://127.0.0.1:1", "check_heart_beat": true, "worker_status": {"model_names": "x"}}',
        b'{"worker_name": "http://127.0.0.1:1", "check_heart_beat": true, "worker_status": {"model_names": []}}',
        b"[" * 100_000,
    ],
)
def test_bad_bodies_are_400(tmp_path: Path, body: bytes) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            token = await daemon.join_token()
            for path in ("/register_worker", "/receive_heart_beat"):
                answer = await daemon.http.post(path, content=body, headers=token)
                assert answer.status_code == 400
                assert answer.json()["error"]["type"] == "invalid_request_error"

    asyncio.run(main())


def test_a_worker_without_status_is_asked_and_left_out_when_silent(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("x") as worker:
            token = await daemon.join_token()
            body = worker.registration(worker_status=None)
            worker.up = False
            assert (await post(daemon, "/register_worker", body, token)).content == b"null"
            assert (await post(daemon, "/list_models")).json() == {"models": []}
            worker.up = True
            assert (await post(daemon, "/register_worker", body, token)).content == b"null"
            assert (await post(daemon, "/list_models")).json() == {"models": ["x"]}

    asyncio.run(main())


def test_a_partial_registration_again_is_completed_by_asking(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("x", "y") as worker:
            token = await daemon.join_token()
            await post(daemon, "/register_worker", worker.registration(), token)
            part = {"model_names": ["x"], "speed": 1, "queue_length": 0}
            await post(daemon, "/register_worker", worker.registration(worker_status=part), token)
            names = daemon.controller.fastchat.names
            await until(lambda: names() == ["x", "y"])
            assert len(daemon.controller.workers()) == 1

    asyncio.run(main())


def test_a_dead_worker_takes_no_request_after_the_first_failure(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("x") as first, foreign("x") as second:
            token = await daemon.join_token()
            for worker in (first, second):
                await post(daemon, "/register_worker", worker.registration(), token)
            await until(lambda: all(info.state == "ready" for info in daemon.controller.workers()))
            lease = await daemon.controller.acquire("x")
            dead = lease.target.worker
            (first if first.url.endswith(str(lease.target.port)) else second).up = False
            lease.release(failed=True)
            for _ in range(6):
                lease = await daemon.controller.acquire("x", exclude=[dead])
                assert lease.target.worker != dead
            assert daemon.controller.workers()[0].state in ("ready", "lost")

    asyncio.run(main())


def test_a_silent_worker_is_lost_and_comes_back_by_registering(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, config=Config(heartbeat_s=0.4)) as daemon, foreign("x") as worker:
            token = await daemon.join_token()
            await post(daemon, "/register_worker", worker.registration(), token)
            await until(lambda: foreign_state(daemon) == "ready")
            await until(lambda: foreign_state(daemon) == "lost", what="lost")
            with pytest.raises(ApiError) as failure:
                await daemon.controller.acquire("x")
            assert failure.value.status == 503
            beat = {"worker_name": worker.url, "queue_length": 0}
            assert (await post(daemon, "/receive_heart_beat", beat, token)).json() == {"exist": False}
            await post(daemon, "/register_worker", worker.registration(), token)
            (await daemon.controller.acquire("x")).release()

    asyncio.run(main())


def test_refresh_forgets_those_that_do_not_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("x") as first, foreign("y") as second:
            token = await daemon.join_token()
            for worker in (first, second):
                await post(daemon, "/register_worker", worker.registration(check_heart_beat=False), token)
            first.up = False
            second.models = ["z"]
            assert (await daemon.http.post("/refresh_all_workers", headers=token)).content == b"null"
            assert (await post(daemon, "/list_models")).json() == {"models": ["z"]}

    asyncio.run(main())


def test_asking_for_the_address_of_a_configured_model_loads_it(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings()
        settings.models["mine"] = ModelSettings(path="guide")
        async with running(tmp_path, settings=settings) as daemon:
            assert (await post(daemon, "/list_models")).json() == {"models": ["mine"]}
            address = (await post(daemon, "/get_worker_address", {"model": "mine"})).json()["address"]
            assert state_of(daemon, "mine") == "ready"
            assert (await httpx.AsyncClient().get(f"{address}/health")).status_code == 200

    asyncio.run(main())


def test_the_address_of_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings()
        settings.models["mine"] = ModelSettings(path="guide")
        async with running(tmp_path, settings=settings, spawn=FakeSpawn(FAKE_MODE="error")) as daemon:
            answer = (await post(daemon, "/get_worker_address", {"model": "mine"})).json()
            assert answer["address"] == ""
            assert "The fake cannot load this." in answer["error"]

    asyncio.run(main())


def test_a_worker_of_fcd_that_cannot_be_called_back_learns_which_flag_to_set(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("far") as worker:
            closed = free_url()
            body = worker.registration(worker_name=closed, fcd={"openai_url": closed})
            answer = await post(daemon, "/register_worker", body, await daemon.join_token())
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "worker_unreachable")
            assert all(word in error["message"] for word in (closed, "--host", "--worker-address"))
            assert daemon.controller.workers() == []
            # FastChat's workers register before they open their port.
            del body["fcd"]
            assert (await post(daemon, "/register_worker", body, await daemon.join_token())).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254", "http://[fe80::1]:80", "http://224.0.0.1", "http://0.0.0.0:1"]
)
def test_addresses_that_no_worker_has_are_never_called(tmp_path: Path, address: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, foreign("far") as worker:
            body = worker.registration(worker_name=address, fcd={"openai_url": address})
            answer = await post(daemon, "/register_worker", body, await daemon.join_token())
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "address_not_allowed")

    asyncio.run(main())


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
