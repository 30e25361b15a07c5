"""The interface's pure pieces."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcd.think import ThinkSplitter
from fcd.wire.admin import Progress, WorkerInfo
from fcd.wire.chats import ChatEvent, ChatInfo, ChatMessage, ChatTree
from tui import formats, worker_rows
from tui.actions import ACTIONS, BY_ID, PLACES, commands, footer, keymap, keys_of, show_key
from tui.app import reading_s
from tui.chats import Conversation
from tui.commands import Command, matching, parse_command, parse_parameter
from tui.fits import fitting, fitting_words
from tui.generation import cursor_of
from tui.glyphs import ASCII, UNICODE, bar, choose_glyphs, sparkline
from tui.loglines import fresh_lines, levels_of
from tui.themes import user_themes


@given(st.lists(st.integers(0, 200), max_size=8))
def test_thoughts_are_told_apart_however_they_are_cut(cuts: list[int]) -> None:
    text = "\n<think>\nFirst </thin and <b>.\n</think>\n\nThe answer </think> goes on."
    splitter, answer, thought = ThinkSplitter(), "", ""
    edges = [0, *sorted({cut % len(text) for cut in cuts}), len(text)]
    for start, end in pairwise(edges):
        more = splitter.feed(text[start:end])
        answer, thought = answer + more[0], thought + more[1]
    rest = splitter.finish()
    assert thought + rest[1] == "First </thin and <b>.\n" or thought.strip() == "First </thin and <b>."
    assert (answer + rest[0]).strip() == "The answer </think> goes on."


def test_what_is_no_thought_passes() -> None:
    splitter = ThinkSplitter()
    assert splitter.feed("<thing>") == ("<thing>", "")
    splitter = ThinkSplitter()
    assert splitter.feed("<th") == ("", "")
    assert splitter.finish() == ("<th", "")


def test_actions_are_unique_and_reachable() -> None:
    assert len(BY_ID) == len(ACTIONS)
    for screen in PLACES:
        words = [action.command for action in commands(screen)]
        assert len(words) == len(set(words)), screen
    for where in {action.where for action in ACTIONS}:
        keys = [key for action in ACTIONS if action.where == where for key in action.keys.split(",") if key]
        assert len(keys) == len(set(keys)), where
    assert all(action.keys or action.command for action in ACTIONS)


def test_keys_that_terminals_do_not_send_are_not_used() -> None:
    eaten = {"ctrl+m", "ctrl+i", "ctrl+h", "ctrl+b", "alt+enter", "ctrl+enter"}
    assert not eaten & {key for action in ACTIONS for key in action.keys.split(",")}


def test_readonly_leaves_destructive_actions_out() -> None:
    assert not any(action.destructive for action in footer(("workers",), readonly=True))
    assert any(action.destructive for action in footer(("workers",), readonly=False))


def test_keymap_names_mistakes() -> None:
    usable, problems = keymap({"retry": "f4", "sned": "x", "new": ""})
    assert usable == {"retry": "f4"}
    assert "Did you mean 'send'?" in problems[0]
    assert len(problems) == 2
    assert keys_of("prompt", {"send": "ctrl+d"})["ctrl+d"] == "send"


@pytest.mark.parametrize(
    ("key", "shown"),
    [("ctrl+r", "^r"), ("f1", "F1"), ("escape", "esc"), ("enter", "⏎"), ("slash", "/"), ("ctrl+end", "^End")],
)
def test_keys_are_shown_as_people_write_them(key: str, shown: str) -> None:
    assert show_key(key, UNICODE) == shown
    assert show_key(key, ASCII).isascii()


def test_commands() -> None:
    command = parse_command("/model  guide-mini ")
    assert isinstance(command, Command)
    assert (command.action.id, command.argument) == ("pick_model", "guide-mini")
    assert parse_command("no command") is None
    assert parse_command("//etc/hosts is what?") is None
    assert parse_command("/usr\n/bin") is None
    assert "Did you mean /retry?" in str(parse_command("/rety"))
    assert [action.command for action in matching("/mo")] == ["model"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("temperature 0.5", ("temperature", 0.5)), ("top_k 3", ("top_k", 3)), ("seed", ("seed", None))],
)
def test_parameters(text: str, expected: object) -> None:
    assert parse_parameter(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [("temprature 1", "temperature"), ("top_k 1.5", "whole number"),
     ("temperature nan", "0 to 2"), ("temperature inf", "0 to 2"), ("top_p 1.5", "0 to 1"), ("min_p -1", "0 to 1"),
     ("max_tokens 0", "max_tokens must be within 1"),
     ("seed 99999999999999999999", "seed must be"), ("top_k -2", "top_k must be")],
)  # fmt: skip
def test_wrong_parameters_are_explained(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_parameter(text)


def test_formats() -> None:
    assert [formats.count(n) for n in (0, 950, 1612, 32_000, 1_250_000)] == ["0", "950", "1.6k", "32k", "1.2M"]
    assert [formats.context(n) for n in (512, 2048, 40960, 5000)] == ["512", "2k", "40k", "5k"]
    assert [formats.size(n) for n in (0, 30_000_000, 8_600_000_000)] == ["0", "29M", "8.0G"]
    assert [formats.seconds(n) for n in (0.42, 3.14, 14, 200)] == ["0.42 s", "3.1 s", "14 s", "3 min"]
    assert formats.progress(Progress("weights", 2, 3, "shards"), ASCII, 6) == "weights ####-- 67 % 2 of 3 shards"
    assert bar(2.0, 4, ASCII) == "####"
    assert sparkline([0, 1, 2], ASCII) == "_+@"
    assert sparkline([], ASCII) == ""


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LANG": "C.UTF-8"}, False),
        ({"LANG": "C"}, True),
        ({"LANG": "en_US.UTF-8", "TERM": "linux"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "POSIX"}, True),
    ],
)
def test_glyphs_suit_the_terminal(environ: dict[str, str], expected: bool) -> None:
    assert choose_glyphs(False, environ).ascii is expected
    assert choose_glyphs(True, environ).ascii


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=6), st.integers(1, 20))
def test_following_a_log_shows_no_line_twice(before: list[str], new: list[str], window: int) -> None:
    numbered = [f"{word}{index}" for index, word in enumerate(before + new)]
    known, fetched = numbered[: len(before)], numbered[-window:]
    fresh = fresh_lines(known, fetched)
    if fresh is None:
        assert len(new) >= window
    else:
        assert (known + fresh)[-len(fetched) :] == fetched[-len(known + fresh) :] or not fetched


def test_levels() -> None:
    lines = ["10:00 info a", "10:01 ERROR b", "  trace", "10:02 warning c", "plain"]
    assert levels_of(lines) == [1, 3, 3, 2, 2]


def test_worker_rows() -> None:
    worker = WorkerInfo("w0", ["guide"], "ready", device="cpu", running=1, tokens_per_second=31.42, ttft_ms=420)
    loading = WorkerInfo("w1", ["big"], "loading")
    assert worker_rows.cells(worker, ASCII) == ("w0", "guide", "cpu", "ready", "0", "1", "31.4", "0.42", "-")
    assert worker_rows.cells(loading, ASCII)[4:] == ("-", "-", "-", "-", "-")
    assert worker_rows.matching([worker, loading], "BIG load") == [loading]
    assert worker_rows.summary([worker, loading]) == "1 up, 1 loading"


def talk() -> Conversation:
    conversation = Conversation()
    said = [
        ChatMessage("q", "user", "", True, "a"),
        ChatMessage("x", "assistant", "q", False, "one"),
        ChatMessage("y", "assistant", "q", True, "two"),
        ChatMessage("r", "user", "y", True, "b"),
        ChatMessage("z", "assistant", "r", True, "par", state="writing"),
    ]
    conversation.load(ChatTree(ChatInfo("c", running="z"), said))
    return conversation


def test_turns_are_what_is_shown_with_their_places() -> None:
    turns = talk().turns()
    assert [(turn.asked, turn.said) for turn in turns] == [("a", "two"), ("b", "par")]
    assert [turn.answer_place for turn in turns] == [(1, 2), (0, 1)]


def test_a_followed_answer_is_its_stream_s_alone() -> None:
    chat = talk()
    writing = chat.running
    assert writing is not None
    chat.followed = "z"
    ended = ChatMessage("z", "assistant", "r", True, "partial", state="done")
    said = [each for each in chat.tree.by_id.values() if each.id != "z"]
    chat.load(ChatTree(ChatInfo("c"), [*said, ended]))
    assert (writing.content, writing.state, chat.running) == ("par", "writing", writing)
    chat.apply(writing, ChatEvent("delta", text="tial", tokens=3))
    chat.apply(writing, ChatEvent("end", ChatMessage("z", "assistant", "r", True, state="done", model="guide")))
    assert (writing.content, writing.state, writing.model) == ("partial", "done", "guide")
    chat.followed = ""
    chat.load(ChatTree(ChatInfo("c"), [*said, ended]))
    assert chat.tree.by_id["z"] is writing
    assert (writing.content, chat.running) == ("partial", None)


def test_a_part_that_the_daemon_lost_is_taken_back() -> None:
    chat = talk()
    writing = chat.running
    assert writing is not None
    assert cursor_of(writing) == "0.3"
    chat.apply(writing, ChatEvent("message", ChatMessage("z", "assistant", "r", True, "p", state="interrupted")))
    assert (writing.content, writing.state) == ("p", "interrupted")


def test_the_interface_imports_no_model_and_no_server_code() -> None:
    code = (
        "import sys, tui.app, tui.screens.workers, tui.screens.logs, tui.widgets.body, tui.widgets.pickers\n"
        "heavy = {'torch', 'transformers', 'sanic', 'vllm', 'accelerate', 'daemon', 'httpx2', 'huggingface_hub'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_names_every_action() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tui.md").read_text(encoding="utf-8")
    assert not [action.id for action in ACTIONS if f"| {action.help} | `{action.id}` |" not in page]


def test_user_themes_are_read_and_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "sea.toml").write_text('primary = "#204060"\nbackground = "black"\ndark = true\n')
    for name, text in (("a", "primary ="), ("b", "dark = true"), ("c", 'primary = "reddish"'), ("d", "primari = 1")):
        (tmp_path / f"{name}.toml").write_text(text)
    themes, problems = user_themes(tmp_path)
    assert [(theme.name, theme.primary) for theme in themes] == [("sea", "#204060")]
    assert len(problems) == 4
    for problem, word in zip(problems, ("a.toml", "'primary' is missing", "'reddish'", "'primari'"), strict=True):
        assert word in problem


def test_models_that_fit() -> None:
    assert fitting(1e8) == []
    assert [repo for repo, _ in fitting(10e9)] == ["Qwen/Qwen3-4B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B"]
    assert fitting(10e9, 2.0)[0][0] == "Qwen/Qwen3-1.7B"
    words = fitting_words(10e9, "memory", 1.0, "^l").plain
    assert "9.3G of memory are free" in words
    assert "fcd pull" in words
    assert fitting_words(1e8, "memory", 1.0, "^l").plain == ""


@pytest.mark.parametrize(
    ("words", "bad", "seconds"),
    [("It is back.", False, 2.5), ("x" * 64, False, 4), ("No.", True, 5), ("x" * 999, True, 10)],
)
def test_notices_stay_as_long_as_it_takes_to_read_them(words: str, bad: bool, seconds: float) -> None:
    assert reading_s(words, bad=bad) == seconds
