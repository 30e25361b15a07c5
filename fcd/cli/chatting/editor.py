"""Where a person types: prompt_toolkit on a terminal, plain lines anywhere else, FastChat's frames for programs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fcd.cli.chatting.displays import END_OF_MESSAGE
from fcd.cli.chatting.slash import COMMANDS, PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings

_MAX_HISTORY = 1_000_000
"""Bytes of the history file beyond which its older half goes."""


class Editor(Protocol):
    async def read(self) -> str:
        """One message. Raises EOFError at the end of input and KeyboardInterrupt on Ctrl-C."""
        ...


def make_editor(style: str, *, multiline: bool, history: Path | None, models: Callable[[], Iterable[str]]) -> Editor:
    if style == "programmatic":
        return FrameEditor()
    if sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return TerminalEditor(multiline=multiline, history=history, models=models)
    return LineEditor(multiline=multiline)


class FrameEditor:
    """Messages that end with FastChat's marker, for programs that talk to the model."""

    async def read(self) -> str:
        lines = ""
        while not lines.endswith(END_OF_MESSAGE):
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                raise EOFError
            lines += line
        text = lines.removesuffix(END_OF_MESSAGE)
        print(f"[!OP:USER]: {text}", flush=True)
        return text


class LineEditor:
    """Lines of stdin. With `multiline` an empty line or the end of input sends; else a `\\` at the end goes on."""

    def __init__(self, *, multiline: bool) -> None:
        self._multiline = multiline

    async def read(self) -> str:
        sys.stderr.write("> ")
        sys.stderr.flush()
        # The event loop's own handler would only note Ctrl-C while the line is waited for.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return self._read()
        finally:
            signal.signal(signal.SIGINT, before)

    def _read(self) -> str:
        lines: list[str] = []
        while True:
            line = sys.stdin.readline()
            if not line:
                if lines:
                    return "\n".join(lines)
                raise EOFError
            line = line.rstrip("\r\n")
            if self._multiline:
                if not line and lines:
                    return "\n".join(lines)
                lines.append(line)
            elif line.endswith("\\"):
                lines.append(line[:-1])
            else:
                return "\n".join([*lines, line])


class TerminalEditor:
    """Line editing with history, completion of commands, and pasted text taken whole."""

    def __init__(self, *, multiline: bool, history: Path | None, models: Callable[[], Iterable[str]]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.auto_suggest import AutoSuggestFromHistory

        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            auto_suggest=AutoSuggestFromHistory(),
            completer=_completer(models),
            complete_while_typing=False,
            key_bindings=_keys(send_with_enter=not multiline),
            multiline=True,
            prompt_continuation=". ",
            enable_open_in_editor=True,
        )

    async def read(self) -> str:
        return await self._session.prompt_async("> ")


def _history(file: Path | None) -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if file is None:
        return InMemoryHistory()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        if file.stat().st_size > _MAX_HISTORY:
            kept = file.read_bytes()[-_MAX_HISTORY // 2 :]
            file.write_bytes(kept[kept.find(b"\n\n#") + 1 :])
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def _keys(*, send_with_enter: bool) -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif send_with_enter or buffer.text.startswith(("/", "!!")):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    keys.add("enter")(enter)
    keys.add("c-j")(new_line)
    keys.add("escape", "enter")(new_line if send_with_enter else send)
    return keys


def _completer(models: Callable[[], Iterable[str]]) -> Any:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document as Text

    class SlashCompleter(Completer):
        """Commands, then what the chosen one takes: models, parameters, files."""

        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            text = document.text_before_cursor
            if not text.startswith(("/", "!!")) or "\n" in text:
                return
            word, space, argument = text.partition(" ")
            if not space:
                names = [command.old if text.startswith("!!") else command.name for command in COMMANDS]
                for name, command in zip(names, COMMANDS, strict=True):
                    if name and name.startswith(text):
                        yield Completion(name, start_position=-len(text), display_meta=command.summary)
            elif word in ("/save", "/load", "/export", "!!save", "!!load"):
                yield from PathCompleter(expanduser=True).get_completions(Text(argument), complete_event)
            else:
                words: Iterable[str] = models() if word == "/model" else PARAMETERS if word == "/set" else ()
                for name in words:
                    if name.startswith(argument):
                        yield Completion(name, start_position=-len(argument))

    return SlashCompleter()
