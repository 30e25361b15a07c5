"""The named conversation templates against the formats that models were trained on."""

from __future__ import annotations

import pytest

from fcd.errors import UsageError
from fcd.templates import TEMPLATES, Turn, get_template

TURNS = [Turn("user", "Hello!"), Turn("assistant", "Hi!"), Turn("user", "How are you?")]
SYSTEM = [Turn("system", "Be brief."), *TURNS]

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "USER: Hello! ASSISTANT: Hi!</s>USER: How are you? ASSISTANT:"
)
ZERO_SHOT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.\n### "
    "Human: Hello!\n### Assistant: Hi!\n### Human: How are you?\n### Assistant:"
)


@pytest.mark.parametrize(
    ("name", "turns", "text"),
    [
        ("vicuna_v1.1", TURNS, VICUNA),
        ("vicuna_v1.1", SYSTEM, "Be brief. USER: Hello! ASSISTANT: Hi!</s>USER: How are you? ASSISTANT:"),
        ("llama-2", TURNS, "[INST] Hello! [/INST] Hi! </s><s>[INST] How are you? [/INST]"),
        (
            "llama-2",
            SYSTEM,
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello! [/INST] Hi! </s><s>[INST] How are you? [/INST]",
        ),
        (
            "chatml",
            TURNS,
            "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>\n"
            "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "chatml",
            SYSTEM[:2],
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("zero_shot", TURNS, ZERO_SHOT),
        ("raw", TURNS[:1], "Hello!"),
    ],
)
def test_golden_prompts(name: str, turns: list[Turn], text: str) -> None:
    assert get_template(name).render(turns) == text


def test_without_a_generation_prompt_the_answer_is_not_opened() -> None:
    assert get_template("chatml").render(TURNS[:1], add_generation_prompt=False) == (
        "<|im_start|>user\nHello!<|im_end|>\n"
    )


def test_braces_in_a_system_message_are_text() -> None:
    assert "{system_message} {0}" in get_template("llama-2").render([Turn("system", "{system_message} {0}")])


@pytest.mark.parametrize("name", TEMPLATES)
def test_fastchat_gets_an_object_that_it_can_read(name: str) -> None:
    conv = TEMPLATES[name].as_fastchat()
    for key in ("name", "system_template", "system_message", "roles", "messages", "offset", "sep_style", "sep", "sep2"):
        assert key in conv
    assert conv["system_template"].format(system_message="x")


def test_an_unknown_template_names_the_near_one() -> None:
    with pytest.raises(UsageError, match=r"vicuna_v1\.1"):
        get_template("vicuna_v1")
