from __future__ import annotations

import base64
import shlex
from pathlib import Path

from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, Static

from fcd.wire.admin import DaemonEvent, WorkerInfo
from tests.tui.chat_scene import ask, play
from tests.tui.fake import GUIDE, FakeDaemon, wait_until
from tests.tui.fake_chats import say_something
from tui.app import FcdApp
from tui.screens.chat import ChatScreen
from tui.widgets.message import TurnView
from tui.widgets.pickers import Ask

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""


def test_files_go_with_a_question(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("otters\n")
    (tmp_path / "data.bin").write_bytes(b"\x00\xff\x01")
    (tmp_path / "pic.png").write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "big.txt").write_text("x" * 600_000)

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        def told(words: str) -> bool:
            return any(words in note.message for note in app._notifications)

        for name, words in (
            ("data.bin", "neither text"), ("pic.png", "cannot see"), ("big.txt", "at most"), ("no.txt", "no file"),
        ):  # fmt: skip
            await ask(screen, pilot, f"/attach {tmp_path / name}")
            await wait_until(pilot, lambda words=words: told(words))
        assert not screen.attachments
        await ask(screen, pilot, "/detach")
        await wait_until(pilot, lambda: told("No file is attached"))
        await ask(screen, pilot, f"/attach {tmp_path / 'notes.txt'}")
        await wait_until(pilot, lambda: screen.attachments)
        assert "notes.txt 7" in str(screen.query_one("#attached").visual)  # type: ignore[attr-defined]
        await ask(screen, pilot, "What is in it?")
        await wait_until(pilot, lambda: daemon.requests)
        assert daemon.requests[0]["messages"][0]["content"] == "What is in it?\n\nnotes.txt:\n\n```txt\notters\n```"
        assert not screen.attachments
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        await pilot.press("up", "end", "!", "enter")
        await wait_until(pilot, lambda: len(daemon.requests) == 2)
        assert "otters" in daemon.requests[1]["messages"][0]["content"]
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        seeing = WorkerInfo(**{**{f: getattr(GUIDE, f) for f in GUIDE.__struct_fields__}, "capabilities": ["vision"]})
        daemon.known = [seeing]
        daemon.tell(DaemonEvent("worker", seeing))
        await wait_until(pilot, lambda: app.link.worker_for("guide") == seeing)
        await ask(screen, pilot, f"/attach {tmp_path / 'pic.png'}")
        await wait_until(pilot, lambda: screen.attachments)
        await ask(screen, pilot, "And this?")
        await wait_until(pilot, lambda: len(daemon.requests) == 3)
        part = daemon.requests[2]["messages"][-1]["content"][1]
        assert part["image_url"]["url"].startswith("data:image/png;base64,")
        await wait_until(
            pilot,
            lambda: "pic.png 70 1x1" in str(screen.query(TurnView).last().question.query_one(".notice", Static).visual),
        )

    play(scene)


def test_a_refused_file_keeps_the_window_open_with_what_was_typed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("otters\n")
    (tmp_path / "big.txt").write_text("x" * 600_000)

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: isinstance(app.screen, Ask))
        field, reason = app.screen.query_one(Input), app.screen.query_one(".dialog-refusal", Static)
        assert not reason.display
        for name, words in (("no.txt", "There is no file"), ("big.txt", "at most 512K of text")):
            field.value = str(tmp_path / name)
            await pilot.press("enter")
            await wait_until(pilot, lambda words=words: reason.display and words in str(reason.visual))  # type: ignore[attr-defined]
            assert field.value == str(tmp_path / name)
        field.value = str(tmp_path / "notes.txt")
        await pilot.press("enter")
        await wait_until(pilot, lambda: app.screen is screen)
        assert [each.name for each in screen.attachments] == ["notes.txt"]
        chat = await say_something(daemon, ("Question?", "Answer."))
        await screen.open_chat(chat)
        for command, name, words in (("/export", "notes.txt", "is there already"), ("/import", "no.txt", "cannot be")):
            await ask(screen, pilot, command)
            await wait_until(pilot, lambda: isinstance(app.screen, Ask))
            reason = app.screen.query_one(".dialog-refusal", Static)
            app.screen.query_one(Input).value = str(tmp_path / name)
            await pilot.press("enter")
            await wait_until(pilot, lambda line=reason, words=words: words in str(line.visual))
            await pilot.press("escape")
            await wait_until(pilot, lambda: app.screen is screen)

    play(scene)


def test_a_pasted_path_of_an_image_is_attached_and_any_other_text_is_typed(tmp_path: Path) -> None:
    picture = tmp_path / "my cat's picture.png"
    picture.write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "notes.txt").write_text("otters\n")
    seeing = WorkerInfo(**{**{f: getattr(GUIDE, f) for f in GUIDE.__struct_fields__}, "capabilities": ["vision"]})

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        daemon.known = [seeing]
        daemon.tell(DaemonEvent("worker", seeing))
        await wait_until(pilot, lambda: app.link.worker_for("guide") == seeing)
        for number, text in enumerate((str(picture), shlex.quote(str(picture)), picture.as_uri() + "\n"), 1):
            screen.prompt.post_message(events.Paste(text))
            await wait_until(pilot, lambda number=number: len(screen.attachments) == number)
        assert screen.prompt.text == ""
        assert (screen.attachments[0].width, screen.attachments[0].media) == (1, "image/png")
        for text in (str(tmp_path / "notes.txt"), f"{picture} and more", "/none.png", "a 'quote"):
            screen.prompt.put("")
            screen.prompt.post_message(events.Paste(text))
            await wait_until(pilot, lambda text=text: screen.prompt.text == text)
        assert len(screen.attachments) == 3

    play(scene)


def test_a_blind_model_names_one_that_sees(tmp_path: Path) -> None:
    (tmp_path / "pic.png").write_bytes(base64.b64decode(PIXEL))

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        fields = {f: getattr(GUIDE, f) for f in GUIDE.__struct_fields__}
        eye = WorkerInfo(**{**fields, "name": "eye-1", "models": ["eye"], "capabilities": ["chat", "vision"]})
        daemon.known = [*daemon.known, eye]
        daemon.tell(DaemonEvent("worker", eye))
        await wait_until(pilot, lambda: app.link.worker_for("eye") == eye)
        await ask(screen, pilot, f"/attach {tmp_path / 'pic.png'}")
        await wait_until(
            pilot,
            lambda: any("guide cannot see images. eye can:" in note.message for note in app._notifications),
        )
        assert not screen.attachments

    play(scene)


def test_export_and_import(tmp_path: Path) -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        chat = await say_something(daemon, ("Question?", "Answer."))
        await screen.open_chat(chat)
        for name, words in (("a.md", "## User"), ("b.json", '"fcd-chats-1"'), ("c.json sharegpt", '"human"')):
            await ask(screen, pilot, f"/export {tmp_path / name}")
            file = tmp_path / name.split()[0]
            await wait_until(pilot, lambda file=file, words=words: file.exists() and words in file.read_text())
        await ask(screen, pilot, f"/import {tmp_path / 'c.json'}")
        await wait_until(pilot, lambda: any("1 chats taken in" in note.message for note in app._notifications))
        await ask(screen, pilot, f"/import {tmp_path / 'b.json'}")
        await wait_until(pilot, lambda: any("1 known already" in note.message for note in app._notifications))

    play(scene)
