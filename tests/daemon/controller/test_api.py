"""/api/workers, /api/models and /api/events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import pytest

from daemon.controller.hub import Hub
from daemon.controller.sizes import limits_nothing
from daemon.openapi import document
from fcd.client import Address, Client
from fcd.errors import ApiError
from fcd.settings import DaemonSettings, ModelSettings, Settings, WorkerSettings
from fcd.wire.admin import DaemonEvent, LoadEvent, LoadRequest, ModelOptions
from tests.daemon.controller.harness import Daemon, FakeSpawn, running, state_of, until


def client_of(daemon: Daemon) -> Client:
    return Client(Address(daemon.url, daemon.admin["Authorization"].removeprefix("Bearer ")))


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 77}))
    return path


async def load(client: Client, model: str, **options: Any) -> list[LoadEvent]:
    return [event async for event in client.load(LoadRequest(model, ModelOptions(**options)))]


async def events_of(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
        elif line.startswith(":"):
            yield "comment", {}


def test_load_shows_progress_then_the_name_to_use(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, client_of(daemon) as client:
            events = await load(client, "guide")
            assert events[0].type == "progress"
            assert [event.progress.stage for event in events[:-1] if event.progress][-1] == "loading"
            last = events[-1]
            assert (last.type, last.model) == ("ready", "guide")
            assert last.worker is not None
            assert last.worker.pid == daemon.spawn.pids[0]
            assert [event.type for event in await load(client, "guide")] == ["ready"], "ready at once"
            assert len(daemon.spawn.pids) == 1
            (model,) = [model for model in await client.models() if model.name == "guide"]
            assert (model.state, model.default) == ("ready", True)
            await client.unload("guide")
            await until(lambda: state_of(daemon) == "gone")
            with pytest.raises(ApiError) as failure:
                await client.unload("guide")
            assert failure.value.status == 404

    asyncio.run(main())


def test_load_by_folder_takes_its_name_unless_that_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        home, models = tmp_path / "home", tmp_path / "models"
        async with running(home) as daemon, client_of(daemon) as client:
            one = folder(models / "one" / "vicuna")
            assert (await load(client, str(one)))[-1].model == "vicuna"
            assert (await load(client, str(one)))[-1].model == "vicuna"
            assert (await load(client, str(folder(models / "two" / "vicuna"))))[-1].model == "vicuna-2"
            spoof = await load(client, str(folder(models / "guide")))
            assert spoof[-1].model == "guide-2"
            assert (await load(client, str(one), quantization="8bit"))[-1].model == "vicuna@8bit"
            assert (await load(client, str(one), dtype="float32"))[-1].model == "vicuna-3"
            named = await load(client, str(one), model_names=["first", "second"])
            assert named[-1].model == "first"
            lease = await daemon.controller.acquire("second")
            assert lease.target.worker == "first"
            lease.release()
            with pytest.raises(ApiError) as failure:
                await load(client, str(folder(models / "other")), model_names=["first"])
            assert failure.value.status == 409
            (await daemon.controller.acquire("vicuna-2")).release()
            names = [info.name for info in daemon.controller.workers()]
            assert names == ["vicuna", "vicuna-2", "guide-2", "vicuna@8bit", "vicuna-3", "first"]
            with pytest.raises(ApiError) as failure:
                await daemon.controller.acquire(str(one))
            assert failure.value.status == 400, "a request names models, never folders"

    asyncio.run(main())


def test_a_limit_for_gpus_makes_no_second_copy_on_a_cpu(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, client_of(daemon) as client:
            for given in ({}, {"max_gpu_memory": "1GiB"}, {"max_gpu_memory": "2GiB"}):
                ready = (await load(client, "guide", **given))[-1]
                assert ready.model == "guide"
                assert [note.partition(" does nothing here")[0] for note in ready.notes] == [
                    f"--max-gpu-memory {size}" for size in given.values()
                ]
            started = await client.start_worker(LoadRequest("guide", ModelOptions(max_gpu_memory="3GiB")))
            assert (started.name, len(started.notes)) == ("guide", 1)
            assert len(daemon.spawn.pids) == 1
            with pytest.raises(ApiError, match="memory") as failure:
                await load(client, "guide", max_gpu_memory="lots")
            assert failure.value.status == 400

    asyncio.run(main())


def test_a_limit_for_gpus_in_the_configuration_is_said_to_do_nothing_on_a_cpu(tmp_path: Path) -> None:
    def begins(notes: list[str]) -> list[str]:
        assert all(note.endswith(" insists on one).") for note in notes)
        return [note.partition(" does nothing here: the model goes to main memory")[0] for note in notes]

    async def main() -> None:
        of_file = 'max_gpu_memory = "8GiB" in config.toml'
        limited = ModelSettings(path="guide", dtype="float32", max_gpu_memory="8GiB")
        async with (
            running(tmp_path, settings=Settings(models={"mine": limited})) as daemon,
            client_of(daemon) as client,
        ):
            started = await client.start_worker(LoadRequest("mine"))
            assert begins(started.notes) == [of_file]
            for given, said in (({}, of_file), ({"max_gpu_memory": "1GiB"}, "--max-gpu-memory 1GiB"), ({}, of_file)):
                ready = (await load(client, "mine", **given))[-1]
                assert (ready.model, begins(ready.notes)) == ("mine", [said])
            (worker,) = await client.workers()
            assert begins(worker.notes) == [of_file], "whoever did not load it can read it too"
            assert (await load(client, "guide"))[-1].notes == []
        gpus = dict.fromkeys(("GPU-1",), 8 << 30)
        async with running(
            tmp_path / "gpu", settings=Settings(models={"mine": limited}), memory=lambda: gpus
        ) as daemon:
            assert (await daemon.controller.specs.known("mine", owner=True)).unused_limit == ""

    asyncio.run(main())


def test_where_a_limit_for_gpus_counts() -> None:
    def nothing(has_gpu: bool, **given: Any) -> bool:
        return limits_nothing(ModelOptions(max_gpu_memory="1GiB", **given), WorkerSettings(), has_gpu=has_gpu)

    assert nothing(False)
    assert nothing(True, device="cpu")
    assert not nothing(True)
    assert not nothing(False, device="cuda")
    assert not nothing(False, gpus="0")
    assert not nothing(False, engine="vllm")


def test_aliases_and_options_of_the_configuration(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(
            models={"mine": ModelSettings(path="guide", dtype="float32")}, aliases={"short": "mine", "a/b": "short"}
        )
        async with running(tmp_path, settings=settings) as daemon:
            for name in ("short", "a/b", "mine"):
                (await daemon.controller.acquire(name)).release()
            assert len(daemon.spawn.pids) == 1
            command = daemon.spawn.commands[0]
            assert command[command.index("--dtype") + 1] == "float32"
            assert command[command.index("--model-names") + 1] == "mine"

    asyncio.run(main())


def test_unknown_models_are_404_with_names_that_come_close(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, client_of(daemon) as client:
            for call in (daemon.controller.acquire("giude"), load(client, "giude")):
                with pytest.raises(ApiError, match="guide") as failure:
                    await call
                assert failure.value.status == 404
            with pytest.raises(ApiError) as failure:
                await daemon.controller.acquire("some/repo-not-here")
            assert failure.value.status == 404, "requests do not cause downloads"
            assert not daemon.spawn.pids

    asyncio.run(main())


def test_a_failed_load_says_why_and_where_the_log_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, spawn=FakeSpawn(FAKE_MODE="error")) as daemon, client_of(daemon) as client:
            last = (await load(client, "guide"))[-1]
            assert last.type == "error"
            assert last.error.startswith("The fake cannot load this.")
            assert str(tmp_path) in last.error
            daemon.spawn.environment["FAKE_MODE"] = ""
            assert (await load(client, "guide"))[-1].type == "ready", "asking again tries again"

    asyncio.run(main())


def test_a_client_that_leaves_does_not_stop_the_load(tmp_path: Path) -> None:
    async def main() -> None:
        go = tmp_path / "go"
        spawn = FakeSpawn(FAKE_MODE="slow", FAKE_GO=str(go))
        async with running(tmp_path, spawn=spawn) as daemon, client_of(daemon) as client:
            stream = client.load(LoadRequest("guide"))
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            go.touch()
            await until(lambda: state_of(daemon) == "ready")
            await until(lambda: not daemon.controller.hub._watchers, what="the watcher to be forgotten")

    asyncio.run(main())


def test_one_who_follows_a_load_too_slowly_is_told_how_it_ended(tmp_path: Path) -> None:
    async def main() -> None:
        go = tmp_path / "go"
        async with running(tmp_path, spawn=FakeSpawn(FAKE_MODE="slow", FAKE_GO=str(go))) as daemon:
            following = await daemon.controller.load(LoadRequest("guide"))
            first = await anext(following)
            assert first is not None
            for _ in range(3000):
                daemon.controller.hub.publish(DaemonEvent("models"))
            go.touch()
            seen = [event async for event in following if event is not None]
            assert seen[-1].type == "ready", seen[-1]
            await until(lambda: not daemon.controller.hub._watchers)

    asyncio.run(main())


def test_a_load_that_nobody_can_follow_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, client_of(daemon) as client:
            monkeypatch.setattr("daemon.controller.hub._WATCHERS", 0)
            (event,) = await load(client, "guide")
            assert (event.type, state_of(daemon)) == ("error", "gone")
            assert "ask again" in event.error

    asyncio.run(main())


def test_a_load_that_failed_keeps_no_name_from_the_next_try(tmp_path: Path) -> None:
    async def main() -> None:
        spawn = FakeSpawn(FAKE_MODE="error")
        async with running(tmp_path, spawn=spawn) as daemon, client_of(daemon) as client:
            names, missing = ["first"], str(tmp_path / "missing")
            failed = await load(client, "guide", model_names=names, lora_modules={"pirate": missing})
            assert failed[-1].type == "error"
            spawn.environment["FAKE_MODE"] = ""
            events = await load(client, "guide", model_names=names, lora_modules={"pirate": str(tmp_path)})
            assert events[-1].type == "ready", events[-1]
            assert [worker.state for worker in await client.workers()] == ["ready"]
            for taken in ({"model_names": ["other"], "lora_modules": {"pirate": missing}}, {"model_names": names}):
                with pytest.raises(ApiError, match="taken"):
                    await load(client, "guide-mini", **taken)

    asyncio.run(main())


def test_a_load_that_is_refused_leaves_failed_ones_and_their_reasons(tmp_path: Path) -> None:
    async def main() -> None:
        missing, right = str(tmp_path / "missing"), str(tmp_path)
        one = folder(tmp_path / "models" / "vicuna")
        spawn = FakeSpawn(FAKE_MODE="error")
        async with running(tmp_path / "home", spawn=spawn) as daemon, client_of(daemon) as client:
            assert (await load(client, "guide", model_names=["first"]))[-1].type == "error"
            assert (await load(client, str(one), lora_modules={"pirate": missing}))[-1].type == "error"
            spawn.environment["FAKE_MODE"] = ""
            assert (await load(client, "guide", model_names=["busy"]))[-1].type == "ready"
            before = [(worker.name, worker.state, worker.error) for worker in await client.workers()]
            assert [state for _, state, _ in before] == ["failed", "failed", "ready"]
            for taken in (
                {"model_names": ["first", "busy"]},
                {"model_names": ["busy"], "lora_modules": {"pirate": right}},
                {"model_names": ["other"], "lora_modules": {"pirate": right, "busy": right}},
            ):
                with pytest.raises(ApiError, match="taken"):
                    await load(client, "guide-mini", **taken)
                assert [(worker.name, worker.state, worker.error) for worker in await client.workers()] == before
            # One that goes ahead has the name that it would have had without the failed one.
            events = await load(client, str(one), lora_modules={"pirate": right})
            assert (events[-1].type, events[-1].model) == ("ready", "vicuna")
            assert {worker.name for worker in await client.workers()} == {"first", "vicuna", "busy"}

    asyncio.run(main())


def test_a_revision_of_what_has_none_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, client_of(daemon) as client:
            for model in ("guide", str(folder(tmp_path / "mine"))):
                with pytest.raises(ApiError, match="repo") as refused:
                    await load(client, model, revision="abc")
                assert refused.value.param == "revision"
            assert daemon.spawn.pids == []

    asyncio.run(main())


def test_workers_are_started_listed_restarted_and_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, client_of(daemon) as client:
            info = await client.start_worker(LoadRequest("guide"))
            assert (info.name, info.state) == ("guide", "starting")
            await until(lambda: state_of(daemon) == "ready")
            (listed,) = await client.workers()
            assert (listed.models, listed.local, listed.pid) == (["guide"], True, daemon.spawn.pids[0])
            await client.restart_worker("guide")
            await until(lambda: len(daemon.spawn.pids) == 2 and state_of(daemon) == "ready")
            assert await client.worker_log("guide") == []
            await client.stop_worker("guide")
            await until(lambda: state_of(daemon) == "gone")
            for call in (client.stop_worker("guide"), client.restart_worker("a/b"), client.worker_log("../daemon")):
                with pytest.raises(ApiError) as failure:
                    await call
                assert failure.value.status == 404

    asyncio.run(main())


def test_events_begin_with_what_is_there_and_then_tell_what_changes(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(daemon=DaemonSettings(sse_comment_s=0.2))
        async with running(tmp_path, settings=settings) as daemon:
            (await daemon.controller.acquire("guide")).release()
            seen: list[str] = []
            async with daemon.http.stream("GET", "/api/events", headers=daemon.admin) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                events = events_of(answer)
                name, data = await anext(events)
                assert (name, data["type"], data["worker"]["name"]) == ("worker", "worker", "guide")
                assert (await anext(events))[0] == "ready"
                await daemon.controller.unload("guide")
                async for name, data in events:
                    if name in ("worker", "worker_gone"):
                        seen.append(data["worker"]["state"] if name == "worker" else name)
                    if name == "comment":
                        break
            assert seen[-2:] == ["stopping", "worker_gone"]

    asyncio.run(main())


def test_a_watcher_that_does_not_keep_up_is_let_go() -> None:
    async def main() -> None:
        hub = Hub()
        with hub.subscribe() as slow, hub.subscribe() as quick:
            for _ in range(2000):
                hub.publish(DaemonEvent("models"))
                assert await quick.next() is not None
            assert slow.closed
            assert not quick.closed
            count = 0
            while await slow.next() is not None:
                count += 1
            assert count < 1100
            assert hub._watchers == {quick}

    asyncio.run(main())


def test_a_body_that_cannot_be_used_is_400(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            bodies = (b"", b"[]", b"{}", b'{"model": 1}', b'{"model": "guide", "options": {"quantization": "3bit"}}')
            headers = {**daemon.admin, "Content-Type": "application/json"}
            for body in bodies:
                for path in ("/api/models/load", "/api/workers"):
                    answer = await daemon.http.post(path, content=body, headers=headers)
                    assert answer.status_code == 400
            bad = msgspec.json.encode(LoadRequest("guide", ModelOptions(keep_alive="soon")))
            answer = await daemon.http.post("/api/models/load", content=bad, headers=headers)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "keep_alive"

    asyncio.run(main())


def test_a_one_off_is_listed_only_while_it_would_be_served(tmp_path: Path) -> None:
    async def main() -> None:
        home, one = tmp_path / "home", folder(tmp_path / "models" / "vicuna")
        async with running(home) as daemon, client_of(daemon) as client:

            async def listed() -> set[str]:
                shown = await daemon.http.get("/v1/models")
                names = {model["id"] for model in shown.json()["data"]} - {"arena", "best"}
                assert names == {model.name for model in await client.models()}
                return names

            before = await listed()
            assert (await load(client, str(one)))[-1].model == "vicuna"
            assert await listed() == before | {"vicuna"}
            await client.unload("vicuna")
            await until(lambda: state_of(daemon, "vicuna") == "gone")
            assert await listed() == before
            with pytest.raises(ApiError) as failure:
                await daemon.controller.acquire("vicuna")
            assert failure.value.status == 404
            assert (await load(client, str(one)))[-1].model == "vicuna", "its name is free again"
            await client.stop_worker("vicuna")
            await until(lambda: state_of(daemon, "vicuna") == "gone")
            assert await listed() == before
            assert "vicuna" not in daemon.controller.supervisor.specs

    asyncio.run(main())


def test_a_one_off_that_failed_is_shown_among_the_workers_alone_and_not_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        home, one = tmp_path / "home", folder(tmp_path / "models" / "vicuna")
        async with running(home, spawn=FakeSpawn(FAKE_MODE="error")) as daemon, client_of(daemon) as client:
            before = {model.name for model in await client.models()}
            for clear in ("stop", "time"):
                assert (await load(client, str(one)))[-1].type == "error"
                (worker,) = await client.workers()
                assert (worker.name, worker.state) == ("vicuna", "failed")
                assert worker.error.startswith("The fake cannot load this.")
                assert {model.name for model in await client.models()} == before
                daemon.controller.one_offs.tidy()
                assert state_of(daemon, "vicuna") == "failed", "its reason stays for a while"
                if clear == "stop":
                    await client.stop_worker("vicuna")
                else:
                    daemon.controller.one_offs.kept_s = 0.0
                    daemon.controller.one_offs.tidy()
                assert not await client.workers()
                assert "vicuna" not in daemon.controller.supervisor.specs
            daemon.spawn.environment["FAKE_MODE"] = ""
            assert (await load(client, str(one)))[-1].type == "ready"

    asyncio.run(main())


def test_a_one_off_that_rests_is_still_served(tmp_path: Path) -> None:
    async def main() -> None:
        home, one = tmp_path / "home", folder(tmp_path / "models" / "vicuna")
        async with running(home) as daemon, client_of(daemon) as client:
            assert (await load(client, str(one), keep_alive="0"))[-1].model == "vicuna"
            await until(lambda: state_of(daemon, "vicuna") == "gone")
            assert "vicuna" in {model.name for model in await client.models()}
            (await daemon.controller.acquire("vicuna")).release()
            await until(lambda: state_of(daemon, "vicuna") == "gone")
            daemon.controller.one_offs.kept_s = 0.0
            daemon.controller.one_offs.tidy()
            assert "vicuna" not in {model.name for model in await client.models()}

    asyncio.run(main())


def test_a_one_off_that_is_restarted_while_it_leaves_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        home, one = tmp_path / "home", folder(tmp_path / "models" / "vicuna")
        async with running(home) as daemon, client_of(daemon) as client:
            await load(client, str(one))
            lease = await daemon.controller.acquire("vicuna")
            await client.stop_worker("vicuna")
            await client.restart_worker("vicuna")
            lease.release()
            await until(lambda: len(daemon.spawn.pids) == 2 and state_of(daemon, "vicuna") == "ready")
            (await daemon.controller.acquire("vicuna", keep_alive="0")).release()
            await until(lambda: state_of(daemon, "vicuna") == "gone")
            (await daemon.controller.acquire("vicuna")).release()

    asyncio.run(main())


def test_flags_of_a_load_end_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, client_of(daemon) as client:
            await load(client, "guide", dtype="float32")
            (await daemon.controller.acquire("guide")).release()
            await client.unload("guide")
            await until(lambda: state_of(daemon) == "gone")
            (await daemon.controller.acquire("guide")).release()
            assert ["--dtype" in command for command in daemon.spawn.commands] == [True, False]

    asyncio.run(main())


def test_flags_are_honoured_and_a_path_without_flags_takes_what_is_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        home, one = tmp_path / "home", str(folder(tmp_path / "models" / "vicuna"))
        async with running(home) as daemon, client_of(daemon) as client:

            async def name(**options: Any) -> str:
                return (await load(client, one, **options))[-1].model

            assert await name(quantization="8bit") == "vicuna@8bit"
            assert await name() == "vicuna@8bit", "no flags: what is loaded"
            assert await name(dtype="float32") == "vicuna"
            assert await name(dtype="float32") == "vicuna"
            assert await name(device="cpu") == "vicuna-2"
            assert await name(quantization="8bit") == "vicuna@8bit"
            assert len(daemon.spawn.pids) == 3
            for loaded in ("vicuna@8bit", "vicuna", "vicuna-2"):
                await client.unload(one)
                await until(lambda loaded=loaded: state_of(daemon, loaded) == "gone")  # type: ignore[misc]
            assert await name() == "vicuna"
            assert "--dtype" not in daemon.spawn.commands[-1]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/api/workers", {"model": "guide", "replica": 2}, "replica"),
        ("/api/workers", {"model": "guide", "options": {"quantisation": "8bit"}}, "options.quantisation"),
        ("/api/workers", {"model": "guide", "place": {"on": "ray", "cpu": 2}}, "place.cpu"),
        ("/api/models/load", {"model": "guide", "option": {}}, "option"),
        ("/api/models/estimate", {"model": "guide", "options": {"dtypes": ""}}, "options.dtypes"),
        ("/api/models/unload", {"model": "guide", "force": True}, "force"),
        ("/api/workers/attach", {"url": "http://127.0.0.1:1", "key": "x"}, "key"),
        ("/api/heads", {"url": "http://127.0.0.1:1", "token": "x", "name": "y"}, "name"),
        ("/api/heads/leave", {"url": "http://127.0.0.1:1", "now": True}, "now"),
        ("/api/models/load", {"model": "guide", "place": {}}, "place.on"),
    ],
)
def test_a_field_that_is_not_known_or_lacks_is_named(
    tmp_path: Path, path: str, body: dict[str, Any], param: str
) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            answer = await daemon.http.post(path, json=body, headers=daemon.admin)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert error["param"] == param
            assert param.rpartition(".")[2] in error["message"]
            assert not daemon.spawn.pids

    asyncio.run(main())


def test_every_body_of_the_daemons_own_routes_is_closed_and_described_so() -> None:
    described = document()
    schemas = described["components"]["schemas"]
    bodies = [
        operation["requestBody"]["content"]["application/json"]["schema"]
        for path, methods in described["paths"].items()
        if path.startswith("/api/")
        for operation in methods.values()
        if "requestBody" in operation
    ]
    assert len(bodies) > 15
    left, seen = [*bodies], set[str]()
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            left += part.values()
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in seen:
                seen.add(name)
                left.append(schemas[name])
    objects = [schemas[name] for name in seen if "properties" in schemas[name]]
    assert [each["title"] for each in objects if each.get("additionalProperties") is not False] == []
    assert {"LoadRequest", "ModelOptions", "PlaceRequest", "AttachRequest"} <= seen
