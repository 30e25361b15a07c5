"""What is done to conversations from anywhere in the interface: names, pins, deletions and their undoing, files."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcd.errors import FcdError
from fcd.wire.chats import ChatFormat, ChatInfo, PatchChat

if TYPE_CHECKING:
    from tui.app import FcdApp

UNDO_S = 5.0
MOST_IMPORTED = 24 * 1024 * 1024
_BY_SUFFIX: dict[str, ChatFormat] = {".md": "markdown", ".markdown": "markdown", ".json": "json"}
_FORMATS: tuple[ChatFormat, ...] = ("markdown", "json", "sharegpt", "fastchat")


class ChatWork:
    """Each goes to the daemon, which tells every interface that is open."""

    def __init__(self, app: FcdApp) -> None:
        self._app = app
        self._deleted: tuple[str, float] = ("", 0.0)

    def rename(self, info: ChatInfo) -> None:
        self._run(self._rename(info))

    def pin(self, info: ChatInfo) -> None:
        self._run(self._pin(info))

    def title(self, info: ChatInfo, title: str) -> None:
        self._run(self._patch(info, PatchChat(title=title[:200])))

    def delete(self, info: ChatInfo) -> None:
        self._run(self._delete(info))

    def undo(self) -> None:
        """Take the last deletion back, within a few seconds."""
        self._run(self._undo())

    def export(self, info: ChatInfo, target: str = "") -> None:
        self._run(self._export(info, target))

    def take_in(self, name: str = "") -> None:
        """Import a file."""
        self._run(self._take_in(name))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._app.run_worker(self._safely(work), group="chats")

    async def _safely(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except FcdError as error:
            self._app.notify(str(error), severity="error", markup=False)

    async def _rename(self, info: ChatInfo) -> None:
        from tui.widgets.pickers import Ask

        hint = "enter name it   empty: as its first question begins   esc leave it"
        title = await self._app.push_screen_wait(Ask("Name of this chat", info.title if info.named else "", hint=hint))
        if title is not None:
            await self._patch(info, PatchChat(title=title[:200]))

    async def _patch(self, info: ChatInfo, asked: PatchChat) -> None:
        await self._app.link.connected().patch_chat(info.id, asked)

    async def _pin(self, info: ChatInfo) -> None:
        await self._patch(info, PatchChat(pinned=not info.pinned))
        words = "No longer on top of the list." if info.pinned else "On top of the list from now on."
        self._app.notify(words, timeout=2, markup=False)

    async def _delete(self, info: ChatInfo) -> None:
        await self._app.link.connected().delete_chat(info.id)
        self._deleted = info.id, self._app.clock() + UNDO_S
        name = info.title or "the chat"
        self._app.notify(f"Deleted {name}. ^z in the list or /undelete takes it back.", timeout=UNDO_S, markup=False)

    async def _undo(self) -> None:
        chat, until = self._deleted
        if not chat:
            self._app.notify("Nothing was deleted.", markup=False)
        elif self._app.clock() > until:
            self._app.notify(f"`fcd chats restore {chat}` takes it back for a month.", markup=False)
        else:
            self._deleted = "", 0.0
            await self._app.link.connected().restore_chat(chat)
            self._app.notify("It is back.", timeout=2, markup=False)

    async def _export(self, info: ChatInfo, target: str) -> None:
        from tui.widgets.pickers import Ask

        if not target:
            hint = ".md to read, .json for all; or FILE sharegpt, FILE fastchat   esc close"
            name = f"chat-{info.id}.md"
            asked = await self._app.push_screen_wait(Ask("Write the chat to", name, hint=hint, refuse=_taken))
            if not asked:
                return
            target = asked
        name, form = split_target(target)
        path = at_home(name)
        data = b"".join([piece async for piece in self._app.link.connected().export_chats(form, [info.id])])
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            self._app.notify(_is_there(path), severity="warning", markup=False)
        except OSError as error:
            self._app.notify(f"{path} cannot be written: {error.strerror}", severity="error", markup=False)
        else:
            self._app.notify(f"Saved to {path.absolute()}", markup=False)

    async def _take_in(self, name: str) -> None:
        from tui.widgets.pickers import Ask

        if not name:
            hint = "fcd's JSON, ChatGPT's conversations.json, ShareGPT, FastChat   esc close"
            window = Ask("Take in chats from", hint=hint, placeholder="FILE", refuse=_unreadable)
            asked = await self._app.push_screen_wait(window)
            name = asked or ""
        if not name:
            return
        try:
            data = read_text(at_home(name))
        except ValueError as error:
            self._app.notify(str(error), severity="error", markup=False)
            return
        report = await self._app.link.connected().import_chats(data)
        words = f"{report.added} chats taken in, {report.duplicates} known already, {report.refused} refused."
        self._app.notify(words + "".join(f"\n{why}" for why in report.reasons), markup=False)


def split_target(target: str) -> tuple[str, ChatFormat]:
    """A file's name and the form that it is to have: by the last word, else by how the name ends."""
    name, _, last = target.strip().rpartition(" ")
    if name and last in _FORMATS:
        return name.strip(), last
    return target.strip(), _BY_SUFFIX.get(Path(target.strip()).suffix.lower(), "markdown")


def at_home(name: str) -> Path:
    """With `~` as a shell reads it; left as it is where nobody has that home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _is_there(path: Path) -> str:
    return f"{path} is there already; give another name."


def _taken(target: str) -> str:
    """Why nothing can be written there, or nothing."""
    path = at_home(split_target(target)[0])
    try:
        return _is_there(path) if path.exists() else ""
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}."


def _unreadable(name: str) -> str:
    """Why this file cannot be taken in, or nothing."""
    try:
        read_text(at_home(name))
    except ValueError as error:
        return str(error)
    return ""


def read_text(path: Path) -> str:
    """Raises ValueError: it cannot be read, is too large, or no text."""
    try:
        if path.stat().st_size > MOST_IMPORTED:
            raise ValueError(f"{path.name} is large: `fcd chats import {path}` takes it in parts.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text.") from None
