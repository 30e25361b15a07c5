"""What the keys and /commands of the Chat screen do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from textual import work

from fcd.errors import FcdError
from fcd.wire.chats import ChatMessage, NamedPreset
from tui.chats import Conversation
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
            "rename_chat": self._rename_to,
            "attach": self._me.attach_file,
            "export_chat": self._save_to,
            "import_chats": self._me.fcd.chat_work.take_in,
            "preset": self._use_preset,
        }
        name = command.action.id
        if name in takers and (command.argument or name == "system"):
            takers[name](command.argument)
            return
        target = "app" if command.action.where == "everywhere" else "screen"
        await self.run_action(f"{target}.{name}")

    def action_stop(self) -> None:
        me = self._me
        if me.busy:
            me.stop_answer()
        elif me.prompt.editing:
            me.leave_editing()
            me.prompt.put("")
        elif isinstance(self.focused, MessageView):
            me.set_focus(me.prompt)

    async def action_retry(self) -> None:
        """The last answer again; with an answer focused, that one."""
        me = self._me
        if me.busy:
            me.notify("An answer is being written; esc stops it.", markup=False)
            return
        if await me.send_unsent():
            return
        question = self._question_in_focus() or me.chat.last_question()
        if question is not None and question.id:
            await me.ask_again(question)
        elif question is None:
            me.notify("Nothing was asked here yet.", timeout=2, markup=False)

    def _question_in_focus(self) -> ChatMessage | None:
        message = self._focused()
        return message.turn_view.turn.question if message is not None else None

    async def action_answer_again(self) -> None:
        await self.action_retry()

    def action_unqueue(self) -> None:
        """The last question that waits comes back to the prompt."""
        me = self._me
        if me.chat.queue:
            me.take_back(me.chat, me.chat.queue[-1].id)
        else:
            me.notify("Nothing waits.", timeout=2, markup=False)

    def action_edit_last(self) -> None:
        if self._me.chat.queue:
            self.action_unqueue()
            return
        self._edit(self._me.chat.last_question())

    def action_edit(self) -> None:
        """The focused question; below an answer, the question that it answers."""
        self._edit(self._question_in_focus() or self._me.chat.last_question())

    def _edit(self, question: ChatMessage | None) -> None:
        me = self._me
        if question is None or not question.id or me.busy:
            return
        me.prompt.editing, me.editing = True, question
        me.set_focus(me.prompt)
        me.prompt.put(question.content)
        me.prompt.at_last_prompt()
        me._draw_note()

    async def action_new(self) -> None:
        """Begin anew; an answer that is being written goes on in the daemon."""
        me = self._me
        await me.show_chat(Conversation(me.chat.model, me.chat.system, me.chat.params))
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
        me.fcd.failed_loads.discard(name)
        me._warmed = ""
        me.run_worker(me.change(model=name), group="change")
        me.set_focus(me.prompt)

    @work(exclusive=True, group="picker")
    async def action_panel(self) -> None:
        from tui.widgets.chat_panel import ChatPanel

        me = self._me
        result = await me.fcd.push_screen_wait(ChatPanel(me.chat.system, me.chat.params))
        if result is not None:
            await me.change(system=result[0], params=result[1])

    def _set(self, text: str) -> None:
        me = self._me
        try:
            name, value = parse_parameter(text)
        except ValueError as error:
            me.notify(str(error), severity="warning", markup=False)
            return
        params = {each: given for each, given in me.chat.params.items() if each != name}
        if value is not None:
            params[name] = value
        me.run_worker(me.change(params=params), group="change")

    def action_system(self) -> None:
        self.action_panel()

    def _set_system(self, text: str) -> None:
        if not text:
            self.action_panel()
            return
        self._me.run_worker(self._me.change(system=text), group="change")
        self._me.notify("System prompt set.", markup=False)

    @work(exclusive=True, group="picker")
    async def action_preset(self) -> None:
        """Take a preset's system prompt and parameters."""
        from tui.widgets.presets import choose_preset

        me = self._me
        try:
            chosen = await choose_preset(me.fcd)
        except FcdError as error:
            me.notify(error.message, severity="error", markup=False)
            return
        if chosen is not None:
            await self._take(chosen)

    def _use_preset(self, name: str) -> None:
        self._me.run_worker(self._take_preset(name), group="change")

    async def _take_preset(self, name: str) -> None:
        me = self._me
        try:
            presets = await me.fcd.link.connected().presets()
        except FcdError as error:
            me.notify(error.message, severity="error", markup=False)
            return
        from tui.widgets.presets import profiles_of

        presets = [*presets, *profiles_of(me.fcd.settings)]
        found = next((preset for preset in presets if preset.name.lower() == name.lower()), None)
        if found is None:
            known = ", ".join(preset.name for preset in presets) or "none yet"
            me.notify(f"There is no preset '{name}'. There are: {known}.", severity="warning", markup=False)
            return
        await self._take(found)

    async def _take(self, preset: NamedPreset) -> None:
        await self._me.change(system=preset.system, params=dict(preset.params))
        self._me.notify(f"Preset {preset.name}.", timeout=2, markup=False)

    def action_pick_chat(self) -> None:
        """To the list beside the chat, or the list as a window."""
        me = self._me
        if (sidebar := me.sidebar) is not None:
            me.set_focus(sidebar.query_one("Input"))  # at once: the next key is the list's
        elif me.fcd.link.state != "up":
            me.notify("The daemon keeps the chats, and it is not there.", severity="warning", markup=False)
        else:
            self._pick_chat()

    @work(exclusive=True, group="picker")
    async def _pick_chat(self) -> None:
        from tui.widgets.chat_list import ChatsDialog

        chosen = await self._me.fcd.push_screen_wait(ChatsDialog(self._me.chat.id))
        if chosen is not None:
            self._me.open_from_list(chosen)

    def action_sidebar(self) -> None:
        """Show or hide the list beside the chat."""
        from tui.screens.chat import SIDEBAR_FROM

        me = self._me
        me.sidebar_wanted = not me.sidebar_wanted
        if me.size.width < SIDEBAR_FROM:
            me.notify(f"The list stands beside the chat from {SIDEBAR_FROM} columns on.", markup=False)
        me._show_sidebar()
        me.set_focus(me.prompt)

    def action_rename_chat(self) -> None:
        if self._is_kept():
            self._me.fcd.chat_work.rename(self._me.chat.info)

    def _rename_to(self, title: str) -> None:
        if self._is_kept():
            self._me.fcd.chat_work.title(self._me.chat.info, title)

    def action_pin_chat(self) -> None:
        if self._is_kept():
            self._me.fcd.chat_work.pin(self._me.chat.info)

    def action_delete_chat(self) -> None:
        if self._is_kept():
            self._me.fcd.chat_work.delete(self._me.chat.info)

    def action_undelete(self) -> None:
        self._me.fcd.chat_work.undo()

    def action_import_chats(self) -> None:
        self._me.fcd.chat_work.take_in()

    def action_export_chat(self) -> None:
        if self._is_kept():
            self._me.fcd.chat_work.export(self._me.chat.info)

    def action_save(self) -> None:
        self._save_to("")

    def _save_to(self, target: str) -> None:
        if self._is_kept():
            self._me.fcd.chat_work.export(self._me.chat.info, target or f"chat-{self._me.chat.id}.md")

    def _is_kept(self) -> bool:
        """Whether there is something yet; said when not."""
        if not self._me.chat.id:
            self._me.notify("Nothing was said here yet.", markup=False)
        return bool(self._me.chat.id)

    def action_editor(self) -> None:
        import shlex
        import subprocess
        import tempfile

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
        answers = [turn.said for turn in self._me.chat.turns() if turn.said]
        if answers:
            self._copy(answers[-1], "answer")

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
        view = self._focused()
        if view is not None and view.message is not None:
            self._copy(view.message.content, "message")

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
        """Another wording of the focused question, or another answer; with it, what followed it."""
        me, view = self._me, self._focused()
        message = view.message if view is not None else None
        if view is None or message is None or not message.id:
            return
        if me.busy:
            me.notify("An answer is being written; esc stops it.", timeout=2, markup=False)
            return
        other = me.chat.tree.neighbour(message, step)
        if other is not None:
            self._choose(other, question=view.is_question)

    @work(exclusive=True, group="choose")
    async def _choose(self, message: ChatMessage, *, question: bool) -> None:
        me, chat = self._me, self._me.chat
        try:
            tree = await me.fcd.link.connected().choose_message(chat.id, message.id)
        except FcdError as error:
            me.notify(error.message, severity="error", markup=False)
            return
        if chat is not me.chat:
            return
        chat.load(tree)
        await me.draw_turns()
        shown = me.transcript.view_of(message.id)
        if shown is not None:
            me.set_focus(shown.question if question else shown.answer, scroll_visible=False)

    def action_fold(self) -> None:
        message = self._focused()
        if message is not None:
            message.turn_view.toggle_thoughts()

    def action_to_prompt(self) -> None:
        self._me.set_focus(self._me.prompt)
