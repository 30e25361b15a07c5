"""What the keys of the Arena screen do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from textual import work
from textual.content import Content

from fcd.errors import FcdError
from fcd.wire.arena import ExportFormat
from tui import board as text
from tui import formats
from tui.chat_work import at_home

if TYPE_CHECKING:
    from textual.screen import Screen

    from tui.screens.arena import ArenaScreen

    _Base = Screen[None]
else:
    _Base = object

_FORMATS: dict[str, tuple[str, str]] = {
    "preferences": ("jsonl", "chosen and rejected answers, for preference training"),
    "sft": ("jsonl", "the better answers, for fine-tuning"),
    "fastchat": ("json", "battles in FastChat's vote format"),
    "battles": ("jsonl", "everything about each battle"),
    "csv": ("csv", "the board as a table"),
    "json": ("json", "the board"),
}


class ArenaActions(_Base):
    """Mixed into ArenaScreen; holds no state of its own."""

    @property
    def _me(self) -> ArenaScreen:
        return self  # type: ignore[return-value]

    def action_heat(self) -> None:
        me = self._me
        if me.view == "heat":
            me.heat_kind += 1
        if me.view == "heat" and me.heat_kind == len(text.HEATS):
            me.view, me.heat_kind = "board", 0
        else:
            me.view = "heat"
        me.draw()
        me.set_focus(me.query_one("#board" if me.view == "board" else "#heat"))

    def action_show_votes(self) -> None:
        me = self._me
        me.view = "board" if me.view == "votes" else "votes"
        me.draw()
        me.set_focus(me.table("vote-list" if me.view == "votes" else "board"))
        me.read()

    def action_to_board(self) -> None:
        me = self._me
        me.view, me.heat_kind = "board", 0
        me.draw()
        me.set_focus(me.table("board"))

    def action_open_row(self) -> None:
        if self._me.view == "votes":
            self._open_vote()
        else:
            self._open_model()

    def _open_model(self) -> None:
        from tui.widgets.arena_dialogs import Sheet

        me, model = self._me, self._me.chosen_model()
        if model is None or me.heads is None:
            return
        lines = [
            f"{other:<28.28} won {won:g}, lost {lost:g}"
            + (f"   {share * 100:.0f} %" if share is not None else "")
            + f"   predicted {predicted * 100:.0f} %"
            for other, won, lost, share, predicted in text.opponents(me.heads, model)
        ]
        me.fcd.push_screen(Sheet(f"{model} head to head", Content("\n".join(lines) or "It met nobody.")))

    @work(exclusive=True, group="picker")
    async def _open_vote(self) -> None:
        from tui.widgets.arena_dialogs import VoteView

        me = self._me
        votes = me.votes.votes if me.votes else []
        at = me.table("vote-list").cursor_row
        if not 0 <= at < len(votes):
            return
        try:
            info = await me.fcd.link.connected().battle(votes[at].battle)
        except FcdError as error:
            me.notify(error.message, severity="warning", markup=False)
            return
        if not info.model_a:
            info.model_a, info.model_b = votes[at].model_a, votes[at].model_b
        me.fcd.push_screen(VoteView(info, me.fcd.glyphs, shaded=me.fcd.shaded))

    @work(exclusive=True, group="picker")
    async def action_filters(self) -> None:
        from tui.widgets.arena_dialogs import Filters

        me = self._me
        typed = await me.fcd.push_screen_wait(Filters(me.typed, me.fcd.now()))
        if typed is not None:
            me.typed = typed
            me.draw()
            me.read()

    @work(exclusive=True, group="picker")
    async def action_export_votes(self) -> None:
        from tui.widgets.arena_dialogs import LineAction
        from tui.widgets.pickers import Picker

        me = self._me
        options = [
            (name, Content.assemble((f"{name:<14}", "bold"), (words, "$foreground 60%")))
            for name, (_, words) in _FORMATS.items()
        ]
        form = await me.fcd.push_screen_wait(Picker("Export as", options, hint="enter choose   esc close"))
        if form is not None:
            export = partial(self._export, cast("ExportFormat", form))
            await me.fcd.push_screen_wait(LineAction("Write to", export, value=f"arena-{form}.{_FORMATS[form][0]}"))

    async def _export(self, form: ExportFormat, name: str, say: Callable[[str], None]) -> str:
        """Why nothing was exported, if so; a file that is not complete is removed again."""
        me, path = self._me, at_home(name)
        size = 0
        try:
            query = text.make_query(me.typed, me.fcd.now())
            with path.open("xb") as file:
                try:
                    async for piece in me.fcd.link.connected().arena_export(form, query):
                        size += file.write(piece)
                        say(f"{formats.size(size)} written")
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
        except FileExistsError:
            return f"{path} is there already; give another name."
        except OSError as error:
            return f"{path} cannot be written: {error.strerror}"
        except FcdError as error:
            return f"Nothing was exported. {error}"
        me.notify(f"Wrote {size} bytes to {path.absolute()}", markup=False)
        return ""

    @work(exclusive=True, group="picker")
    async def action_import_votes(self) -> None:
        from tui.widgets.arena_dialogs import LineAction

        hint = "FastChat's logs, exported battles, JSON, JSON lines   esc close"
        stop = "esc stops it; what is in stays"
        await self._me.fcd.push_screen_wait(LineAction("File with votes", self._import, hint=hint, stop=stop))

    async def _import(self, name: str, say: Callable[[str], None]) -> str:
        """Why not all of the file came in, if so."""
        me, path = self._me, at_home(name)
        added = duplicates = refused = 0
        reasons: dict[str, int] = {}
        try:
            parts = text.parts_of(path)
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                report = await me.fcd.link.connected().arena_import(part)
                added, duplicates = added + report.added, duplicates + report.duplicates
                refused += report.refused
                for reason, count in report.reasons.items():
                    reasons[reason] = reasons.get(reason, 0) + count
                say(f"{added} votes added, {duplicates} were there, {refused} refused")
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        except FcdError as error:
            return str(error) + (f"\n{added} votes came in before." if added else "")
        finally:
            if added and me.is_attached:
                me.read()
        most = sorted(reasons.items(), key=lambda each: -each[1])[:4]
        why = "".join(f"\n{count}: {reason}" for reason, count in most)
        me.notify(f"{added} votes added, {duplicates} were there, {refused} refused.{why}", timeout=8, markup=False)
        return ""
