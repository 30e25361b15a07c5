"""The files that go with the next question."""

from __future__ import annotations

from pathlib import Path

from textual import on, work
from textual.widgets import Static

from fcd.attachments import described, read_attachment
from fcd.wire.chats import MAX_ATTACHMENTS
from tui.screens.chat_base import ChatBase
from tui.widgets.prompt import Prompt

_KNOWN = ("ready", "asleep")
"""States of workers that have said what they can."""


class ChatAttach(ChatBase):
    """Attaches, shows and leaves out files."""

    @work(exclusive=True, group="picker")
    async def action_attach(self) -> None:
        from tui.widgets.pickers import Ask

        hint = "text, or an image for a model that sees   enter attach it   esc leave it"
        await self.fcd.push_screen_wait(Ask("Attach a file", hint=hint, placeholder="FILE", refuse=self._try_attach))
        self.set_focus(self.prompt)

    def attach_file(self, name: str) -> None:
        """Let a file go with the next question."""
        if why := self._try_attach(name):
            self.notify(why, severity="warning", markup=False)

    def _try_attach(self, name: str) -> str:
        """Attach it; why not, or nothing."""
        if len(self.attachments) >= MAX_ATTACHMENTS:
            return f"At most {MAX_ATTACHMENTS} files go with a question."
        try:
            attached = read_attachment(Path(name).expanduser())
        except (ValueError, RuntimeError) as error:  # RuntimeError: `~someone` without a home
            return str(error)
        if attached.is_image and (why := self._blind()):
            return why
        self.attachments.append(attached)
        self._show_attached()
        return ""

    def _blind(self) -> str:
        """Why the chat's model takes no images, with what would work; empty where it does, or where that is not known
        before it is loaded."""
        link, model = self.fcd.link, self.chat.model
        worker = link.worker_for(model)
        if worker is None or worker.state not in _KNOWN:
            self.notify(f"{model} is not loaded: whether it sees images shows with its answer.", markup=False)
            return ""
        # Of a joined daemon's models, that daemon alone knows it.
        if "vision" in worker.capabilities or worker.engine == "daemon":
            return ""
        seeing = [
            name
            for each in link.workers.values()
            if "vision" in each.capabilities and each.state in _KNOWN
            for name in each.models
        ]
        key = self.fcd.key("pick_model")
        if seeing:
            return f"{model} cannot see images. {', '.join(sorted(seeing)[:3])} can: {key} chooses it."
        return f"{model} cannot see images, nor can what else is loaded. {key} loads one that can, such as Gemma 3."

    @on(Prompt.Dropped)
    def _dropped(self, event: Prompt.Dropped) -> None:
        self.attach_file(str(event.path))

    def action_detach(self) -> None:
        if not self.attachments:
            self.notify("No file is attached.", timeout=2, markup=False)
        self.attachments = []
        self._show_attached()

    def _show_attached(self) -> None:
        line = self.query_one("#attached", Static)
        line.display = bool(self.attachments)
        names = "   ".join(described(each) for each in self.attachments)
        line.update(f" + {names}   /detach leaves them out")
