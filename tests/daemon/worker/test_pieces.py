"""The worker's small pure parts: addresses, defaults, token bytes, prompts, the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.worker.address import announced_address
from daemon.worker.conversation import derive, fastchat_conv
from daemon.worker.defaults import SamplingDefaults, from_config, read_defaults
from daemon.worker.options import WorkerOptions
from daemon.worker.prompts import Prompter, choose_template
from daemon.worker.tokens import TokenTable
from fcd.cli.command import Parser
from fcd.cli.worker import add_arguments, read_run_options
from fcd.errors import ApiError, FcdError, UsageError
from fcd.templates import DEFAULT, Turn, get_template
from fcd.wire.openai import Message
from tests.daemon.worker.fake import FakeTokenizer
from tests.tiny_models import tiny_model


def options(**fields: Any) -> WorkerOptions:
    return WorkerOptions(model="m", **fields)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({}, "http://127.0.0.1:5"),
        ({"host": "::1"}, "http://[::1]:5"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:5"),
        ({"host": "10.0.0.3", "controllers": ("http://10.0.0.9:8000",)}, "http://10.0.0.3:5"),
        ({"worker_id": "w", "controllers": ("http://10.0.0.9:8000",)}, "http://127.0.0.1:5"),
        ({"address": "https://gpu.example/w1", "controllers": ("http://10.0.0.9",)}, "https://gpu.example/w1"),
    ],
)
def test_the_announced_address(fields: dict[str, Any], address: str) -> None:
    assert announced_address(options(**fields), 5) == address


def test_an_address_that_the_controller_cannot_reach_names_the_flag() -> None:
    with pytest.raises(FcdError) as caught:
        announced_address(options(controllers=("http://10.0.0.9:8000/join/t",)), 5)
    assert "--host" in caught.value.hint


def test_sampling_defaults() -> None:
    assert from_config({}) == SamplingDefaults()
    assert from_config({"do_sample": False, "temperature": 0.6}).temperature == 0
    found = from_config({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": "x"})
    assert found == SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95)
    assert from_config({"temperature": float("nan"), "top_p": 7, "top_k": True}) == SamplingDefaults()


def test_defaults_of_a_folder_without_or_with_a_broken_file(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == SamplingDefaults()
    (tmp_path / "generation_config.json").write_text("{", encoding="utf-8")
    assert read_defaults(tmp_path) == SamplingDefaults()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model("llama"))


def test_the_bytes_of_tokens_put_a_split_character_together(tokenizer: Any) -> None:
    table = TokenTable(tokenizer)
    text = "日本 🚀é x"
    ids = tokenizer.encode(text, add_special_tokens=False)
    parts = [table.bytes_of(token, tokenizer.decode([token])) for token in ids]
    assert b"".join(parts) == text.encode()
    broken = next(token for token in ids if "\ufffd" in tokenizer.decode([token]))
    assert table.name_of(broken, "\ufffd").startswith("bytes:\\x")


def test_a_chat_is_rendered_by_the_tokenizers_template(tokenizer: Any) -> None:
    prompter = Prompter(tokenizer, None)
    messages = [Message(role="developer", content="Be brief."), Message(role="user", content="Hi")]
    text = prompter.render(messages)
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert prompter.decode(prompter.encode(text, specials=False)) == text


def test_tool_calls_are_written_out_where_the_template_has_no_place_for_them(tokenizer: Any) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}
    import msgspec

    message = msgspec.convert({"role": "assistant", "tool_calls": [call]}, Message)
    results = [Message(role="tool", tool_call_id="1", content=text) for text in ("one", "two")]
    text = Prompter(tokenizer, None).render([message, *results])
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in text
    assert text.count("<|im_start|>user") == 1
    assert "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>" in text


def test_which_template_is_used(tokenizer: Any, tmp_path: Path) -> None:
    bare = SimpleNamespace(chat_template=None)
    config = tmp_path / "vicuna-llama-2-chatml"
    config.mkdir()
    assert choose_template(tokenizer, config, "", is_encoder_decoder=False) is None
    assert choose_template(tokenizer, config, "raw", is_encoder_decoder=False) is get_template("raw")
    assert choose_template(bare, config, "", is_encoder_decoder=False) is get_template(DEFAULT)
    assert choose_template(bare, config, "", is_encoder_decoder=True) is None
    (config / "config.json").write_text(json.dumps({"conv_template": "vicuna_v1.1"}), encoding="utf-8")
    assert choose_template(bare, config, "", is_encoder_decoder=False) is get_template("vicuna_v1.1")
    with pytest.raises(UsageError):
        choose_template(bare, config, "nothing", is_encoder_decoder=False)


def test_an_encoder_decoder_gets_the_last_users_text() -> None:
    prompter = Prompter(FakeTokenizer(), None, raw=True)
    messages = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    assert prompter.render([*messages, Message(role="user", content="translate: c")]) == "translate: c"
    with pytest.raises(ApiError):
        prompter.render(messages[1:])


def test_a_template_is_worked_out_for_fastchat(tokenizer: Any) -> None:
    prompter = Prompter(tokenizer, None)
    found = derive(prompter)
    assert found is not None
    turns = [("user", "x"), ("assistant", "y"), ("user", "z")]
    own = prompter.render([Message(role=role, content=text) for role, text in turns])  # type: ignore[arg-type]
    assert found.render([Turn(role, text) for role, text in turns]) == own


def test_a_default_system_message_is_kept_for_fastchat() -> None:
    class WithDefault(FakeTokenizer):
        def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
            if messages[0]["role"] != "system":
                messages = [{"role": "system", "content": "You are kind."}, *messages]
            return super().apply_chat_template(messages, **kwargs)

    prompter = Prompter(WithDefault(), None)
    assert fastchat_conv(prompter)["system_message"] == "You are kind."
    found = derive(prompter)
    assert found is not None
    for turns in ([("user", "x")], [("system", "Be rude."), ("user", "x"), ("assistant", "y"), ("user", "z")]):
        own = prompter.render([Message(role=role, content=text) for role, text in turns])  # type: ignore[arg-type]
        assert found.render([Turn(role, text) for role, text in turns]) == own


def test_a_template_of_another_form_becomes_raw_for_fastchat() -> None:
    class Numbered(FakeTokenizer):
        def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
            return "".join(f"[{number}] {message['content']}" for number, message in enumerate(messages))

    assert fastchat_conv(Prompter(Numbered(), None))["sep_style"] == 4


def parse(*words: str) -> WorkerOptions:
    parser = Parser(prog="fcd worker")
    add_arguments(parser)
    args = parser.parse_args(["run", *words])
    args.passthrough = []
    return read_run_options(args, heartbeat_s=15, drain_s=30)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text(" abc\n", encoding="utf-8")
    monkeypatch.setenv("FCD_JOIN_TOKEN", "from-env")
    found = parse(
        *("guide", "--controller", "http://a:1", "--controller-address", "http://b:2", "--token-file", str(token)),
        *("--model-names", "x, y", "--load_8bit", "--limit-worker-concurrency", "3", "--host", "10.0.0.2"),
    )
    assert found.controllers == ("http://a:1", "http://b:2")
    assert (found.join_token, found.names, found.concurrency) == ("abc", ("x", "y"), 3)
    assert found.model_options.quantization == "8bit"
    assert len(found.api_key) > 20
    assert parse("--model-path", "guide", "--no-register").join_token == "from-env"
    assert parse("guide", "--no-register").api_key == ""
    assert parse("guide", "--no-register", "--host", "0.0.0.0", "--open").api_key == ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["guide"],
        ["guide", "--controller", "head:8000"],
        ["guide", "--no-register", "--controller", "http://head"],
        ["guide", "--no-register", "--conv-template", "nothing"],
        ["guide", "--no-register", "--port", "99999"],
        ["guide", "--no-register", "--keep-alive", "5m"],
        ["guide", "--no-register", "--token-file", "/no/such/file"],
        ["guide", "--no-register", "--limit-worker-concurrency", "-1"],
    ],
)
def test_what_the_command_line_refuses(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(*words)
