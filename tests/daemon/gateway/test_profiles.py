"""Defaults of a name for engines that take requests as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.gateway.profiles import with_profile
from fcd.errors import ConfigError
from fcd.settings import ModelSettings, Settings, load_settings
from tests.daemon.harness import answer, daemon, run, worker

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"
POET = ModelSettings(path="x", engine="vllm", system="Rhyme.", temperature=0.2, top_k=5, max_tokens=50, stop=["END"])
SETTINGS = Settings(
    models={
        "poet": POET,
        "plain": ModelSettings(path="x", engine="vllm"),
        "own": ModelSettings(path="x", temperature=0.3),
        "server": ModelSettings(command="serve {port}", temperature=0.4),
    },
    aliases={"bard": "poet"},
)


def sent(model: str, path: str = CHAT, **fields: Any) -> bytes:
    return json.dumps({"model": model, **({"messages": [{"role": "user", "content": "Hi"}]} | fields)}).encode()


def asked(body: bytes, name: str, path: str = CHAT) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(with_profile(body, path, name, SETTINGS))
    return found


@pytest.mark.parametrize("name", ["plain", "own", "unknown", "x"])
def test_other_requests_stay_as_they_were_sent(name: str) -> None:
    body = b'{ "model" : "plain","messages":[ ] , "n":1e0 }'
    assert with_profile(body, CHAT, name, SETTINGS) is body
    assert with_profile(body, "/v1/embeddings", "poet", SETTINGS) is body
    assert with_profile(b"", CHAT, "poet", SETTINGS) == b""


@pytest.mark.parametrize("name", ["poet", "bard"])
def test_what_is_left_out_is_filled_in(name: str) -> None:
    found = asked(sent(name, temperature=None), name)
    assert found["messages"][0] == {"role": "system", "content": "Rhyme."}
    assert found["messages"][1] == {"role": "user", "content": "Hi"}
    assert (found["temperature"], found["top_k"], found["max_tokens"], found["stop"]) == (0.2, 5, 50, ["END"])


def test_what_is_said_stays() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    found = asked(sent("poet", messages=messages, temperature=1, stop="X", max_completion_tokens=7), "poet")
    assert found["messages"] == messages
    assert (found["temperature"], found["stop"], found["max_completion_tokens"]) == (1, "X", 7)
    assert "max_tokens" not in found


def test_a_completion_has_no_system_message() -> None:
    found = asked(sent("poet", prompt="Once"), "poet", "/v1/completions?x=1")
    assert found["messages"] == [{"role": "user", "content": "Hi"}]
    assert found["temperature"] == 0.2


def test_what_is_no_list_of_messages_is_left_to_the_engine_to_refuse() -> None:
    for messages in ("words", [1], [{"role": 3}]):
        assert asked(sent("poet", messages=messages), "poet")["messages"] == messages
    assert asked(sent("server"), "server")["temperature"] == 0.4


def test_a_command_s_server_is_given_openai_s_own_fields_only(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[models.a]\ncommand = "serve {port}"\nsystem = "Hi"\ntemperature = 0.5\n')
    assert load_settings(config, {}).models["a"].system == "Hi"
    for field in ("top_k = 3", "min_p = 0.1", "repetition_penalty = 1.1"):
        config.write_text(f'[models.a]\nengine = "command"\ncommand = "serve {{port}}"\n{field}\n')
        with pytest.raises(ConfigError, match=field.split()[0]):
            load_settings(config, {})
    config.write_text('[models.a]\npath = "x"\nengine = "vllm"\ntop_k = 3\n')
    assert load_settings(config, {}).models["a"].top_k == 3


def test_the_relay_applies_them_and_leaves_others_alone() -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:
            plain = sent("m")
            await fcd.http.post(CHAT, content=plain, headers=JSON)
            fcd.context.settings.models["m"] = POET
            await fcd.http.post(CHAT, content=plain, headers=JSON)
            before, after = (each.body for each in first.received)
            assert before == plain
            assert json.loads(after)["messages"][0]["content"] == "Rhyme."
            assert json.loads(after)["temperature"] == 0.2

    run(main())
