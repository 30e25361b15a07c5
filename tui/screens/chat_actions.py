"""What the keys and /commands of the Chat screen do."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from textual import work

from fcd.errors import FcdError
from tui.chats import Chat, new_chat, to_markdown
from tui.commands import Command, parse_parameter
from tui.widgets.message import MessageView

if TYPE_CHECKING:
    from textual.screen import Screen

    from tui.screens.chat import ChatScreen

    _Base = Screen[None]
else:
    _Base = object


class ChatActions(_Base):
    """Mixed into ChatScreen; holds no state of its own."""

    @property
    def _me(self) -> ChatScreen:
        return self  # type: ignore[return-value]

    async def run_command(self, command: Command) -> None:
        """Carry out a /command."""
        takers = {
            "pick_model": self.use_model,
            "panel": self._set,
            "system": self._set_system,
            "save": self._save_to,
            "theme": self._me.fcd.use_theme,
        }
        name = command.action.id
        if name in takers and (command.argument or name in ("system", "save")):
            takers[name](command.argument)
            return
        target = "app" if command.action.where == "everywhere" else "screen"
        await self.run_action(f"{target}.{name}")

    def action_stop(self) -> None:
        me = self._me
        if me.busy:
            me.workers.cancel_group(me, "answer")
        elif me.prompt.editing:
            me.prompt.editing = False
            me.prompt.put("")
            me._draw_note()
        elif isinstance(self.focused, MessageView):
            me.set_focus(me.prompt)

    async def action_retry(self) -> None:
        me = self._me
        if me.busy:
            me.notify("An answer is being written; esc stops it.", markup=False)
        elif me.chat.turns:
            turn = me.chat.turns[-1]
            await me.ask_again(turn, turn.variant.question)

    def action_edit(self) -> None:
        me = self._me
        if not me.chat.turns or me.busy:
            return
        me.prompt.editing = True
        me.set_focus(me.prompt)
        me.prompt.put(me.chat.turns[-1].variant.question)
        me.prompt.at_last_prompt()
        me._draw_note()

    async def action_new(self) -> None:
        me = self._me
        await me.settle()
        await me.open_chat(new_chat(me.chat.model, me.chat.system, me.chat.params))
        me.set_focus(me.prompt)

    @work(exclusive=True, group="picker")
    async def action_pick_model(self) -> None:
        from tui.widgets.pickers import Picker, model_options

        me = self._me
        try:
            models = await me.fcd.link.connected().models()
        except FcdError as error:
            me.notify(str(error), severity="error", markup=False)
            return
        hint = "enter choose   esc close   a folder or repo name works too"
        options = model_options(models, me.chat.model, me.fcd.glyphs)
        chosen = await me.fcd.push_screen_wait(Picker("Model", options, hint=hint, free=True))
        if chosen:
            self.use_model(chosen)

    def use_model(self, name: str) -> None:
        """Go on with another model; it is loaded at once."""
        me = self._me
        me.chat.model = name
        me.fcd.failed_loads.discard(name)
        me.link_changed()
        me.set_focus(me.prompt)

    @work(exclusive=True, group="picker")
    async def action_panel(self) -> None:
        from tui.widgets.pickers import Panel

        me = self._me
        result = await me.fcd.push_screen_wait(Panel(me.chat.system, me.chat.params))
        if result is not None:
            me.chat.system, me.chat.params = result
            me.meter.show_params(me.chat.params)
            me.save_chat()

    def _set(self, text: str) -> None:
        me = self._me
        try:
            name, value = parse_parameter(text)
        except ValueError as error:
            me.notify(str(error), severity="warning", markup=False)
            return
        if value is None:
            me.chat.params.pop(name, None)
        else:
            me.chat.params[name] = value
        me.meter.show_params(me.chat.params)

    def action_system(self) -> None:
        self.action_panel()

    def _set_system(self, text: str) -> None:
        if not text:
            self.action_panel()
            return
        self._me.chat.system = text
        self._me.notify("System prompt set.", markup=False)

    @work(exclusive=True, group="picker")
    async def action_pick_chat(self) -> None:
        from tui.widgets.pickers import Picker, chat_options, chat_texts

        me = self._me
        chats = me.fcd.chats.list()
        if not chats:
            me.notify("There are no earlier conversations.", markup=False)
            return
        chosen = await me.fcd.push_screen_wait(
            Picker(
                "Conversations",
                chat_options(chats),
                hint="type words that were said   enter open   esc close",
                texts=chat_texts(chats),
            )
        )
        chat = me.fcd.chats.load(chosen) if chosen else None
        if chat is not None:
            await self._open(chat)

    async def _open(self, chat: Chat) -> None:
        await self._me.settle()
        await self._me.open_chat(chat)
        self._me.set_focus(self._me.prompt)

    def action_save(self) -> None:
        self._save_to("")

    def _save_to(self, name: str) -> None:
        me = self._me
        path = Path(name or f"chat-{me.chat.id}.md").expanduser()
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(to_markdown(me.chat))
        except FileExistsError:
            me.notify(f"{path} is there already; give another name.", severity="warning", markup=False)
        except OSError as error:
            me.notify(f"{path} cannot be written: {error.strerror}", severity="error", markup=False)
        else:
            me.notify(f"Saved to {path.absolute()}", markup=False)

    def action_editor(self) -> None:
        me = self._me
        command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
        with tempfile.NamedTemporaryFile("w", suffix=".md", delete=False, encoding="utf-8") as file:
            file.write(me.prompt.text)
        path = Path(file.name)
        try:
            with me.fcd.suspend():
                subprocess.run([*command, str(path)], check=True)
            me.prompt.put(path.read_text(encoding="utf-8").rstrip("\n"))
        except (OSError, subprocess.SubprocessError) as error:
            me.notify(f"The editor did not work: {error}", severity="error", markup=False)
        finally:
            path.unlink(missing_ok=True)

    def action_follow(self) -> None:
        self._me.transcript.follow()

    def action_copy_answer(self) -> None:
        me = self._me
        if me.chat.turns:
            self._copy(me.chat.turns[-1].variant.text, "answer")

    def _copy(self, text: str, what: str) -> None:
        if text:
            self._me.fcd.copy_to_clipboard(text)
            self._me.notify(f"Copied the {what} ({len(text)} characters).", timeout=2, markup=False)

    def action_older(self) -> None:
        self._me.transcript.focus_message(-1)

    def action_newer(self) -> None:
        self._me.transcript.focus_message(1)

    def action_first(self) -> None:
        self._me.transcript.scroll_home(animate=False)
        self._me.transcript.focus_message(-(10**6))

    def action_last(self) -> None:
        self._me.transcript.focus_message(10**6)
        self._me.transcript.follow()

    def _focused(self) -> MessageView | None:
        return self.focused if isinstance(self.focused, MessageView) else None

    def action_copy_message(self) -> None:
        message = self._focused()
        if message is not None:
            variant = message.turn_view.turn.variant
            self._copy(variant.question if message.is_question else variant.text, "message")

    def action_copy_code(self) -> None:
        message = self._focused()
        codes = [block.code for block in message.body.blocks if block.kind == "code"] if message else []
        if message is None or not codes:
            self._me.notify("There is no code block in this message.", markup=False)
            return
        at = message.next_code % len(codes)
        message.next_code = at + 1
        self._copy(codes[at], f"code block {at + 1} of {len(codes)}" if len(codes) > 1 else "code block")

    def action_previous_variant(self) -> None:
        self._move_variant(-1)

    def action_next_variant(self) -> None:
        self._move_variant(1)

    def _move_variant(self, step: int) -> None:
        message = self._focused()
        if message is None or (self._me.busy and message.turn_view.turn is self._me.chat.turns[-1]):
            return
        if message.turn_view.turn.move(step):
            message.turn_view.show()
            self._me.save_chat()

    def action_fold(self) -> None:
        message = self._focused()
        if message is not None:
            message.turn_view.toggle_thoughts()

    def action_to_prompt(self) -> None:
        self._me.set_focus(self._me.prompt)
