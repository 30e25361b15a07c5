from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcd.cli.chatting.displays import ending
from fcd.cli.chatting.oneshot import join_prompt
from fcd.cli.chatting.slash import COMMANDS, help_text, parse_line, parse_setting
from fcd.errors import UsageError


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("hello", None),
        ("/usr/bin/env is a path", None),
        ("/2 is a half", None),
        ("!important", None),
        ("/help", ("/help", "")),
        ("  /HELP ", ("/help", "")),
        ("!!exit", ("/exit", "")),
        ("/quit", ("/exit", "")),
        ("!!remove", ("/undo", "")),
        ("!!save talk", ("/save", "talk")),
        ("/system Be kind. And brief.", ("/system", "Be kind. And brief.")),
        ("/model", ("/model", "")),
    ],
)
def test_lines(line: str, meaning: tuple[str, str] | None) -> None:
    assert parse_line(line) == meaning


@pytest.mark.parametrize(
    ("line", "said"), [("/sav x", "/save"), ("/frobnicate", "/help"), ("/save", "FILE"), ("!!laod x", "!!load")]
)
def test_mistakes(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_line(line)


def test_help_names_every_command() -> None:
    for command in COMMANDS:
        assert command.name in help_text()
        assert command.old in help_text()
    assert max(map(len, help_text().splitlines())) <= 80, "no line breaks in the middle of a word"


@pytest.mark.parametrize(
    ("argument", "meaning"),
    [
        ("temperature 0.5", ("temperature", 0.5)),
        ("top-k=40", ("top_k", 40)),
        ("max_new_tokens 9", ("max_tokens", 9)),
        ("seed off", ("seed", None)),
        ("stop \\n", ("stop", ["\n"])),
    ],
)
def test_settings(argument: str, meaning: tuple[str, object]) -> None:
    assert parse_setting(argument) == meaning


@pytest.mark.parametrize(
    ("argument", "said"),
    [("temprature 1", "temperature"), ("top_k 1.5", "top_k"), ("seed", "needs a value"), ("x 1", "There are")],
)
def test_settings_that_cannot_be(argument: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_setting(argument)


@given(st.lists(st.sampled_from(["text", "", "```", "~~~", "- item", "    code"]), max_size=60), st.integers(1, 20))
def test_the_ending_is_an_ending_and_never_begins_inside_code(lines: list[str], wanted: int) -> None:
    text = "\n".join(lines)
    cut = ending(text, wanted)
    assert text.endswith(cut)
    assert len(cut.splitlines()) >= min(wanted, len(text.splitlines()))
    before = text[: len(text) - len(cut)]
    fence = ""
    for line in before.splitlines():
        if line.startswith(("```", "~~~")) and (not fence or line.startswith(fence)):
            fence = "" if fence else line[:3]
    assert fence == "", "an open fence was cut away"


def test_the_ending_of_a_long_text_is_short() -> None:
    assert len(ending("line\n\n" * 10_000, 20).splitlines()) <= 22


def test_join_prompt() -> None:
    assert join_prompt("a", "") == "a"
    assert join_prompt(" ", "b") == "b"
    assert join_prompt("a:", "b") == "a: b"
    assert join_prompt("a:", "b\nc") == "a:\n\nb\nc"
