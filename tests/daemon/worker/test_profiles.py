"""A name's own defaults: applied where the request leaves a field out, never over what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fcd.errors import ConfigError
from fcd.settings import ModelSettings, Settings, load_settings, profile_of, read_snapshot, write_snapshot
from tests.daemon.worker.fake import FakeEngine, Served, with_worker

CHAT = "/v1/chat/completions"
SETTINGS = Settings(
    models={
        "poet": ModelSettings(
            path="fake", system="Be brief", temperature=0.25, top_k=5, presence_penalty=0.5, max_tokens=3, stop=["#"]
        ),
        "plain": ModelSettings(path="fake"),
    },
    aliases={"bard": "poet", "fake": "poet"},
)


def ask(fields: dict[str, Any], path: str = CHAT) -> tuple[Any, dict[str, Any]]:
    """What the engine is given, and the answer."""
    engine = FakeEngine("Hello")
    answers: list[dict[str, Any]] = []

    async def test(served: Served) -> None:
        async with served.client() as client:
            base = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {"prompt": "Hi"}
            answer = await client.post(path, json={"model": "fake", **base, **fields}, headers={"x-fcd-model": "x"})
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())

    with_worker(test, engine, settings=SETTINGS)
    return engine.requests[-1], answers[0]


def prompt_of(request: Any) -> str:
    return "".join(chr(token) for token in request.prompt_ids if token != 1)


@pytest.mark.parametrize("name", ["poet", "bard", "fake", "poet@8bit"])
def test_what_the_request_leaves_out_comes_from_the_profile(name: str) -> None:
    request, answer = ask({"model": name})
    params = request.params
    assert prompt_of(request) == "system:Be brief|user:Hi|assistant:"
    assert (params.temperature, params.top_k, params.presence_penalty) == (0.25, 5, 0.5)
    assert params.stop == ("#",)
    assert answer["model"] == name
    assert answer["choices"][0]["message"]["content"] == "Hel"
    assert answer["choices"][0]["finish_reason"] == "length"


def test_what_the_request_says_counts() -> None:
    given = {"temperature": 1.5, "top_k": 0, "presence_penalty": 0, "stop": "!", "max_tokens": 4}
    messages = [{"role": "developer", "content": "Mine"}, {"role": "user", "content": "Hi"}]
    request, answer = ask({"model": "poet", "messages": messages, **given})
    assert "Be brief" not in prompt_of(request)
    params = request.params
    assert (params.temperature, params.top_k, params.presence_penalty, params.stop) == (1.5, 0, 0.0, ("!",))
    assert answer["choices"][0]["message"]["content"] == "Hell"


def test_completions_have_the_sampling_and_no_system_message() -> None:
    request, answer = ask({"model": "poet"}, "/v1/completions")
    assert prompt_of(request) == "Hi"
    assert (request.params.temperature, request.params.max_tokens) == (0.25, 3)
    assert answer["choices"][0]["text"] == "Hel"


def test_a_long_prompt_cuts_the_profile_s_limit_and_is_not_refused() -> None:
    request, _ = ask({"model": "poet", "prompt": "x" * 61}, "/v1/completions")
    assert request.params.max_tokens == 2


def test_other_names_have_none() -> None:
    request, _ = ask({"model": "plain"})
    assert prompt_of(request) == "user:Hi|assistant:"
    assert request.params.temperature == 1.0


def test_a_circle_of_aliases_has_no_profile() -> None:
    assert profile_of("a", Settings(aliases={"a": "b", "b": "a"})) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("temperature = 3.0", "models.poet.temperature must be between 0 and 2"),
        ("max_tokens = 0", "models.poet.max_tokens must be between 1"),
        ('engine = "command"\ntop_k = 5', "models.poet.top_k: OpenAI's routes have no such field"),
        ("replicas = 0", "models.poet.replicas must be between 1"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[models.poet]\n{line}\n")
    with pytest.raises(ConfigError, match=words):
        load_settings(file, {})


def test_workers_read_the_settings_in_force_and_not_a_file_broken_since(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    write_snapshot(file, SETTINGS)
    assert read_snapshot(file) == SETTINGS
    assert file.stat().st_mode & 0o077 == 0
    file.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_snapshot(file)
