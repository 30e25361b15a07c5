"""Conversations, typed into a real terminal against a scripted daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fcd.fake_daemon import BOUND_S, Cut, FakeDaemon, Pause, Refuse, fake_daemon
from tests.fcd.terminal import PROMPT, Terminal, environment, fcd, terminal
from tests.image_files import data_url, png

CTRL_C, CTRL_D, CTRL_J, ESCAPE = "\x03", "\x04", "\n", "\x1b"


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as fake:
        yield fake


@pytest.fixture
def env(daemon: FakeDaemon, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, FCD_URL=daemon.url, NO_COLOR="1")


def leave(shown: Terminal) -> None:
    shown.expect(PROMPT)
    shown.send(CTRL_D)
    assert shown.wait() == 0, shown.plain


def kept(home: Path) -> dict[str, Any]:
    """The one conversation that was kept."""
    (file,) = (home / "data" / "chats").glob("*.json")
    chat: dict[str, Any] = json.loads(file.read_text())
    return chat


def test_turns_are_sent_with_their_history_and_kept(daemon: FakeDaemon, env: dict[str, str], tmp_path: Path) -> None:
    daemon.answers = [["Hel", "lo."], ["Again."]]
    with terminal("chat", "--temperature", "0", env=env) as shown:
        shown.line("hi")
        shown.expect("Hello.")
        shown.line("once more")
        shown.expect("Again.")
        leave(shown)
    first, second = daemon.chats()
    assert first["messages"] == [{"role": "user", "content": "hi"}]
    assert first["temperature"] == 0
    assert "top_p" not in first
    assert "max_tokens" not in first
    assert [message["content"] for message in second["messages"]] == ["hi", "Hello.", "once more"]
    assert [message["content"] for message in kept(tmp_path)["messages"]] == ["hi", "Hello.", "once more", "Again."]


def test_ctrl_c_stops_the_answer_and_keeps_what_was_written(
    daemon: FakeDaemon, env: dict[str, str], tmp_path: Path
) -> None:
    pause = Pause()
    daemon.answers = [["This much ", pause, "never"], ["Yes."]]
    with terminal("chat", env=env) as shown:
        shown.line("tell me")
        shown.expect("This much")
        assert pause.reached.wait(BOUND_S)
        shown.send(CTRL_C)
        shown.expect("Stopped")
        assert daemon.dropped.wait(BOUND_S), "the daemon was not told"
        partial = kept(tmp_path)["messages"]
        assert partial[1]["content"] == "This much "
        assert partial[1]["partial"] is True
        shown.line("go on")
        shown.expect("Yes.")
        leave(shown)
    assert [message["content"] for message in daemon.chats()[1]["messages"]] == ["tell me", "This much ", "go on"]
    assert "Traceback" not in shown.seen


def test_ctrl_c_twice_at_the_prompt_leaves(env: dict[str, str]) -> None:
    with terminal("chat", env=env) as shown:
        shown.expect(PROMPT)
        shown.send(CTRL_C)
        shown.expect("Ctrl-C again leaves")
        shown.expect(PROMPT)
        shown.send(CTRL_C)
        assert shown.wait() == 0


@pytest.mark.parametrize(
    "typed",
    ["one" + CTRL_J + "two", "one\\\rtwo", "one" + ESCAPE + "\rtwo", ESCAPE + "[200~one\ntwo" + ESCAPE + "[201~"],
    ids=["ctrl-j", "backslash", "esc enter", "paste"],
)
def test_a_message_of_two_lines(daemon: FakeDaemon, env: dict[str, str], typed: str) -> None:
    with terminal("chat", env=env) as shown:
        shown.line(typed)
        shown.expect("You said")
        leave(shown)
    assert daemon.chats()[0]["messages"][0]["content"] == "one\ntwo"


def test_multiline_sends_with_escape_enter(daemon: FakeDaemon, env: dict[str, str]) -> None:
    with terminal("chat", "--multiline", env=env) as shown:
        shown.expect(PROMPT)
        shown.send("one\rtwo" + ESCAPE + "\r")
        shown.expect("You said")
        leave(shown)
    assert daemon.chats()[0]["messages"][0]["content"] == "one\ntwo"


def test_undo_regen_reset_system_and_set(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.answers = [["A1."], ["A2."], ["A2b."], ["B."], ["C."]]
    with terminal("chat", env=env) as shown:
        shown.line("q1")
        shown.expect("A1.")
        shown.line("q2")
        shown.expect("A2.")
        shown.line("/regen")
        shown.expect("A2b.")
        shown.line("!!remove")
        shown.expect("Dropped: q2")
        shown.line("/system Be brief.")
        shown.line("/set temperature 0.25")
        shown.line("/set temprature 1")
        shown.expect("Did you mean temperature?")
        shown.line("q3")
        shown.expect("B.")
        shown.line("!!reset")
        shown.line("/set temperature off")
        shown.line("q4")
        shown.expect("C.")
        shown.line("/regn")
        shown.expect("Did you mean /regen?")
        leave(shown)
    sent = [[message["content"] for message in body["messages"]] for body in daemon.chats()]
    assert sent == [
        ["q1"],
        ["q1", "A1.", "q2"],
        ["q1", "A1.", "q2"],
        ["Be brief.", "q1", "A1.", "q3"],
        ["Be brief.", "q4"],
    ]
    assert daemon.chats()[3]["temperature"] == 0.25
    assert "temperature" not in daemon.chats()[4]


def test_save_load_and_export(daemon: FakeDaemon, env: dict[str, str], tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text(
        json.dumps(
            {
                "template_name": "vicuna_v1.1",
                "system_message": "You are kind.",
                "roles": ["USER", "ASSISTANT"],
                "messages": [["USER", "example"], ["ASSISTANT", "shown"], ["USER", "hi"], ["ASSISTANT", "Hello!"]],
                "offset": 2,
            }
        )
    )
    with terminal("chat", env=env) as shown:
        shown.line(f"!!load {tmp_path}/old")
        shown.expect("Loaded 2 messages")
        shown.line("and now?")
        shown.expect("You said: and now?")
        shown.line(f"/save {tmp_path}/new")
        shown.expect("Saved to")
        shown.line(f"/export {tmp_path}/talk.md")
        shown.expect("Exported")
        shown.line(f"/export {tmp_path}/old.json")
        shown.expect("exists already")
        shown.line("/reset")
        shown.line(f"/load {tmp_path}/new.json")
        shown.expect("Loaded 4 messages")
        leave(shown)
    body = daemon.chats()[0]
    assert [message["content"] for message in body["messages"]] == ["You are kind.", "hi", "Hello!", "and now?"]
    assert json.loads((tmp_path / "new.json").read_text())["model"] == "guide"
    assert "## User\n\nand now?" in (tmp_path / "talk.md").read_text()


def test_the_daemon_goes_away_in_the_middle(daemon: FakeDaemon, env: dict[str, str], tmp_path: Path) -> None:
    daemon.answers = [["Half ", Cut()], ["Whole."]]
    with terminal("chat", env=env) as shown:
        shown.line("well?")
        shown.expect("Half")
        shown.expect("does not answer")
        shown.expect("What was written is kept.")
        shown.expect("/regen asks again")
        answer = kept(tmp_path)["messages"][1]
        assert (answer["content"], answer["partial"]) == ("Half ", True)
        shown.line("/regen")
        shown.expect("Whole.")
        leave(shown)
    assert len(daemon.loads()) == 2, "the model is loaded again"
    assert daemon.chats()[1]["messages"] == [{"role": "user", "content": "well?"}]


def test_an_error_in_the_middle_keeps_the_rest(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.answers = [["Part ", Refuse(500, "The worker died.", "worker_died")], ["Fine."]]
    with terminal("chat", env=env) as shown:
        shown.line("well?")
        shown.expect("The worker died.")
        shown.line("/regen")
        shown.expect("Fine.")
        leave(shown)


def test_too_long_a_conversation_says_what_to_do(daemon: FakeDaemon, env: dict[str, str]) -> None:
    message = "This conversation has 3000 tokens; the model takes 2048."
    daemon.answers = [[Refuse(400, message, "context_length_exceeded", "messages")]]
    with terminal("chat", env=env) as shown:
        shown.line("well?")
        shown.expect(message)
        shown.expect("/undo drops the last question")
        leave(shown)


def test_another_model_and_one_that_is_not_there(daemon: FakeDaemon, env: dict[str, str]) -> None:
    with terminal("chat", env=env) as shown:
        shown.line("/model nosuch")
        shown.expect("does not exist here")
        shown.line("/model other")
        shown.expect("Now talking to other.")
        shown.line("hi")
        shown.expect("You said: hi")
        leave(shown)
    assert daemon.chats()[0]["model"] == "other"


def test_slash_commands_are_completed(env: dict[str, str]) -> None:
    with terminal("chat", env=env) as shown:
        shown.expect(PROMPT)
        shown.send("/sta")
        shown.expect("/sta")
        shown.send("\t")
        shown.expect("ts")
        shown.send("\r")
        shown.expect("No answer yet.")
        leave(shown)


def test_continue_goes_on_with_the_last_conversation(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.answers = [["Hello Ann."], ["Ann."], ["Yes, Ann."]]
    with terminal("chat", "--system", "Be kind.", env=env) as shown:
        shown.line("I am Ann")
        shown.expect("Hello Ann.")
        leave(shown)
    with terminal("chat", "--continue", env=env) as shown:
        shown.expect("Going on with")
        shown.line("who am I?")
        shown.expect("Ann.")
        leave(shown)
    done = fcd("chat", "--continue", "sure?", env=env)
    assert done.stdout == "Yes, Ann.\n"
    contents = [message["content"] for message in daemon.chats()[2]["messages"]]
    assert contents == ["Be kind.", "I am Ann", "Hello Ann.", "who am I?", "Ann.", "sure?"]


def test_no_history_asks_alone_and_keeps_nothing(daemon: FakeDaemon, env: dict[str, str], tmp_path: Path) -> None:
    with terminal("chat", "--no-history", env=env) as shown:
        shown.line("one")
        shown.expect("You said: one")
        shown.line("two")
        shown.expect("You said: two")
        leave(shown)
    assert [len(body["messages"]) for body in daemon.chats()] == [1, 1]
    assert not (tmp_path / "data" / "chats").exists()
    assert not (tmp_path / "state" / "chat-history").exists()


def test_the_rich_style_ends_with_the_whole_markdown(daemon: FakeDaemon, env: dict[str, str]) -> None:
    lines = [f"{number}. item {number}\n" for number in range(1, 61)]
    daemon.answers = [["# Title\n\n", *lines, "\nThe **end**.\n"]]
    colour = {name: value for name, value in env.items() if name != "NO_COLOR"}
    with terminal("chat", env=colour) as shown:
        shown.line("list")
        shown.expect("end")
        shown.expect(PROMPT)
        last = shown.plain.rpartition("Title")[2]
        numbers = [word for word in last.split() if word.isdecimal()]
        assert numbers == [str(number) for number in range(1, 61) for _ in range(2)]
        assert "**" not in last
        shown.send(CTRL_D)
        assert shown.wait() == 0


def test_escape_sequences_of_a_model_do_not_reach_the_terminal(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.answers = [["safe\x1b]0;owned\x07 \x9b31m text"]]
    with terminal("chat", env=env) as shown:
        shown.line("go")
        shown.expect("text")
        leave(shown)
    assert "\x1b]0;" not in shown.seen
    assert "\x9b" not in shown.seen


def test_a_dumb_terminal_is_enough(env: dict[str, str]) -> None:
    with terminal("chat", env={**env, "TERM": "dumb"}) as shown:
        shown.expect("> ")
        shown.send("hello\n")
        shown.expect("You said: hello")
        shown.expect("> ")
        shown.send(CTRL_D)
        assert shown.wait() == 0
    assert "\x1b[" not in shown.seen


def test_programs_talk_in_frames(daemon: FakeDaemon, env: dict[str, str]) -> None:
    end = " __END_OF_A_MESSAGE_47582648__\n"
    daemon.answers = [["One."], ["Two."]]
    done = fcd("chat", "--style", "programmatic", env=env, text=f"a\nb{end}c{end}!!exit{end}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["[!OP:USER]: a", "b", "[!OP:ASSISTANT]: One."]
    assert done.stdout.splitlines()[3:5] == ["[!OP:USER]: c", "[!OP:ASSISTANT]: Two."]
    assert daemon.chats()[0]["messages"][0]["content"] == "a\nb"


def test_files_go_with_a_question(daemon: FakeDaemon, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("otters\n")
    (tmp_path / "a cat.png").write_bytes(png(6, 4))
    daemon.answers = [["A cat."], ["Indeed."]]
    with terminal("chat", env=env) as shown:
        shown.line(f"/attach {tmp_path / 'none.png'}")
        shown.expect("There is no file")
        shown.line(f"/attach {tmp_path / 'notes.txt'}")
        shown.expect("With the next question: notes.txt 7")
        shown.line("/detach")
        shown.expect("Left out: 1 file.")
        shown.line(f"/attach {tmp_path / 'notes.txt'}")
        shown.expect("notes.txt 7")
        shown.line(f"/attach '{tmp_path / 'a cat.png'}'")
        shown.expect("6x4")
        shown.line("What is it?")
        shown.expect("A cat.")
        shown.line("Sure?")
        shown.expect("Indeed.")
        leave(shown)
    first, second = daemon.chats()
    parts = first["messages"][0]["content"]
    assert parts[0]["text"] == "What is it?\n\nnotes.txt:\n\n```txt\notters\n```"
    assert parts[1]["image_url"]["url"] == data_url(png(6, 4))
    assert second["messages"][0]["content"] == parts
    assert second["messages"][2] == {"role": "user", "content": "Sure?"}
    assert kept(tmp_path)["messages"][0]["attachments"][0]["width"] == 6
