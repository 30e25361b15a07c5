"""The files that go with the next question."""

from __future__ import annotations

from pathlib import Path

from textual import work
from textual.widgets import Static

from fcd.wire.chats import MAX_ATTACHMENTS
from tui.attachments import described, read_attachment
from tui.screens.chat_base import ChatBase


class ChatAttach(ChatBase):
    """Attaches, shows and leaves out files."""

    @work(exclusive=True, group="picker")
    async def action_attach(self) -> None:
        from tui.widgets.pickers import Ask

        hint = "a text file, or an image for a model that sees   enter attach it   esc leave it"
        name = await self.fcd.push_screen_wait(Ask("Attach a file", hint=hint, placeholder="FILE"))
        if name:
            self.attach_file(name)
        self.set_focus(self.prompt)

    def attach_file(self, name: str) -> None:
        """Let a file go with the next question."""
        if len(self.attachments) >= MAX_ATTACHMENTS:
            self.notify(f"At most {MAX_ATTACHMENTS} files go with a question.", severity="warning", markup=False)
            return
        try:
            attached = read_attachment(Path(name).expanduser())
        except ValueError as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        worker = self.fcd.link.worker_for(self.chat.model)
        if attached.is_image and worker is not None and "vision" not in worker.capabilities:
            words = f"{self.chat.model} cannot see images. {self.fcd.key('pick_model')} chooses a model that can."
            self.notify(words, severity="warning", markup=False)
            return
        if attached.is_image and worker is None:
            self.notify(f"{self.chat.model} is not loaded: whether it sees images is not known yet.", markup=False)
            return
        self.attachments.append(attached)
        self._show_attached()

    def action_detach(self) -> None:
        self.attachments = []
        self._show_attached()

    def _show_attached(self) -> None:
        line = self.query_one("#attached", Static)
        line.display = bool(self.attachments)
        names = "   ".join(described(each) for each in self.attachments)
        line.update(f" + {names}   /detach leaves them out")
