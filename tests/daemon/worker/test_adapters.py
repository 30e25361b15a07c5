"""A request's model name chooses the adapter, whatever the route."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.controller.loads import request_name
from daemon.engines.base import GenerationRequest
from daemon.supervisor.launch import LaunchSpec
from daemon.worker.main import merge_options, served_names
from daemon.worker.options import WorkerOptions
from daemon.worker.profiles import Profiles
from daemon.worker.state import Worker
from fcd.cli.model_flags import lora_modules
from fcd.errors import UsageError
from fcd.settings import ModelSettings, Settings
from fcd.wire.admin import ModelOptions
from tests.daemon.worker.fake import Served, with_worker

MODULES = {"pirate": "/a", "poet": "/b"}


def adapted(served: Served) -> list[GenerationRequest]:
    """Make a served worker one with two adapters; its engine's requests."""
    options = WorkerOptions(model="fake", model_options=ModelOptions(lora_modules=MODULES))
    served.worker.options = options
    served.worker.names = served_names(["fake"], options.model_options)
    return served.engine.requests


def test_every_route_takes_the_adapter_that_is_named() -> None:
    async def test(served: Served) -> None:
        requests = adapted(served)
        async with served.client() as client:
            for name in ("pirate", "fake", "poet"):
                chat = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
                assert (await client.post("/v1/chat/completions", json=chat)).json()["model"] == name
                await client.post("/v1/completions", json={"model": name, "prompt": "hi"})
                await client.post("/worker_generate", json={"model": name, "prompt": "hi", "max_new_tokens": 2})
            cards = (await client.get("/v1/models")).json()["data"]
            assert (await client.post("/worker_get_status", json={})).json()["model_names"] == ["fake", *MODULES]
            unknown = await client.post("/v1/completions", json={"model": "parrot", "prompt": "hi"})
        assert [request.adapter for request in requests] == ["pirate"] * 3 + [""] * 3 + ["poet"] * 3
        assert {card["id"]: card["parent"] for card in cards} == {"fake": None, "pirate": "fake", "poet": "fake"}
        assert unknown.status_code == 404

    with_worker(test)


def test_embeddings_are_the_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def test(served: Served) -> None:
        adapted(served)

        async def embed(inputs: Any, adapter: str = "") -> list[list[float]]:
            asked.append(adapter)
            return [[1.0] for _ in inputs]

        monkeypatch.setattr(served.engine, "embed", embed)
        async with served.client() as client:
            await client.post("/v1/embeddings", json={"model": "poet", "input": "a"})
            await client.post("/v1/embeddings", json={"model": "fake", "input": "a"})
            await client.post("/worker_get_embeddings", json={"model": "pirate", "input": ["a"]})
        assert asked == ["poet", "", "pirate"]

    with_worker(test)


def test_an_alias_means_what_it_stands_for() -> None:
    settings = Settings(aliases={"mate": "bosun", "bosun": "pirate", "round": "round"})
    options = WorkerOptions(model="fake", model_options=ModelOptions(lora_modules=MODULES))
    worker = Worker(options, ["fake", *MODULES], profiles=Profiles(settings))
    names = ("mate", "pirate", "fake", "round", "other", None)
    assert [worker.adapter(name) for name in names] == ["pirate", "pirate", "", "", "", ""]


def test_names_come_from_flags_and_config() -> None:
    merged = merge_options(ModelOptions(lora_modules={"a": "/1", "b": "/2"}), ModelOptions(lora_modules={"b": "/3"}))
    assert merged.lora_modules == {"a": "/1", "b": "/3"}
    assert served_names(["m", "b", "a"], merged) == ["m", "a", "b"]
    with pytest.raises(UsageError, match="the model's own name"):
        served_names(["a"], merged)


def test_the_flag_takes_one_or_several() -> None:
    assert lora_modules(["a=/x/y,b=/z", "c=/with,comma"]) == {"a": "/x/y", "b": "/z", "c": "/with,comma"}
    for bad in ("a", "=/x", "a="):
        with pytest.raises(UsageError, match="NAME=PATH"):
            lora_modules([bad])
    with pytest.raises(UsageError, match="twice"):
        lora_modules(["a=/x", "a=/y"])


def test_a_load_tells_the_name_that_means_the_adapter_or_the_profile() -> None:
    models = {"base": ModelSettings(adapters={"pirate": "/a"}), "terse": ModelSettings(path="base", system="Be brief.")}
    settings = Settings(models=models, aliases={"mate": "pirate", "plain": "base"})
    spec = LaunchSpec("base", "base", ("pirate",), ModelOptions(lora_modules={"pirate": "/a"}))
    asked = ("pirate", "mate", "terse", "base", "plain", "/models/base")
    told = [request_name(name, spec, settings) for name in asked]
    assert told == ["pirate", "mate", "terse", "base", "base", "base"]
