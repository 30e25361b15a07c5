"""Where a person writes: several lines, history, and a few keys that terminals really send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from fcd.attachments import image_file
from tui.commands import matching


class Prompt(TextArea):
    """Enter sends; ctrl+j, or a backslash before enter, makes a new line.

    Its keys are not bindings: bindings with priority overtake characters that are still on their way to the text, so
    that a line that is pasted with its enter would be sent empty.
    """

    class Sent(Message):
        def __init__(self, text: str, editing: bool) -> None:
            super().__init__()
            self.text = text
            self.editing = editing

    class Dropped(Message):
        """A path of an image was pasted, as terminals do with a file that is dropped on them."""

        def __init__(self, path: Path) -> None:
            super().__init__()
            self.path = path

    class Scroll(Message):
        def __init__(self, pages: int) -> None:
            super().__init__()
            self.pages = pages

    def __init__(
        self,
        keys: Mapping[str, str],
        *,
        edit_last: Callable[[], None],
        leave: Callable[[], None],
        screen: str = "chat",
        takes_images: bool = False,
        placeholder: str = "Ask anything",
    ) -> None:
        """
        Args:
            keys: what each key does, of `keys_of("prompt")`.
            edit_last: ↑ on an empty prompt.
            leave: tab, where there is nothing to complete. Both are called at once, not sent as messages, so that
                the keys that follow find the new state.
            screen: whose /commands are completed.
            takes_images: a pasted path of an image is told (`Dropped`) and not inserted.
        """
        super().__init__(id="prompt", soft_wrap=True, show_line_numbers=False, placeholder=placeholder)
        self.prompts: list[str] = []
        self.editing = False
        """What stands here is the last question, to be asked in its place."""
        self._keys = keys
        self._screen_name = screen
        self._takes_images = takes_images
        self._edit_last = edit_last
        self._leave = leave
        self._at = 0
        self._draft = ""
        self.highlight_cursor_line = False

    async def _on_key(self, event: events.Key) -> None:
        action = self._keys.get(event.key)
        if action is None:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()
        getattr(self, f"action_{action}")()

    async def _on_paste(self, event: events.Paste) -> None:
        path = image_file(event.text) if self._takes_images else None
        if path is None:
            await super()._on_paste(event)
        else:
            self.post_message(self.Dropped(path))
        # Else the text area's own handler would take it once more.
        event.prevent_default()
        event.stop()

    def action_send(self) -> None:
        if self.text.endswith("\\") and self.cursor_location == self.document.end:
            self.action_delete_left()
            self.insert("\n")
            return
        text = self.text.strip("\n")
        if not text.strip():
            return
        if not self.prompts or self.prompts[-1] != text:
            self.prompts.append(text)
        editing, self.editing = self.editing, False
        self.put("")
        self._at = len(self.prompts)
        self.post_message(self.Sent(text, editing))

    def put(self, text: str) -> None:
        """Replace what stands here, cursor at the end."""
        self.load_text(text)
        self.move_cursor(self.document.end)

    def remember(self, prompts: list[str]) -> None:
        """Another conversation's prompts become the history."""
        self.prompts = list(prompts)
        self._at = len(self.prompts)

    def remember_if_idle(self, prompts: list[str]) -> None:
        """The same conversation has other questions now; who walks through them keeps their place."""
        if self._at >= len(self.prompts) and not self.editing:
            self.remember(prompts)

    def action_newline(self) -> None:
        start, end = self.selection
        self.replace("\n", start, end)

    def action_back(self) -> None:
        if self.navigator.is_first_wrapped_line(self.cursor_location):
            if not self.text and self._at >= len(self.prompts):
                self._edit_last()
                return
            self._walk(-1)
        else:
            self.action_cursor_up()

    def action_forth(self) -> None:
        if self.navigator.is_last_wrapped_line(self.cursor_location):
            self._walk(1)
        else:
            self.action_cursor_down()

    def at_last_prompt(self) -> None:
        """The history goes on from its end, as when the last prompt is shown."""
        self._at = max(0, len(self.prompts) - 1)

    def _walk(self, step: int) -> None:
        target = self._at + step
        if not 0 <= target <= len(self.prompts):
            return
        if self._at == len(self.prompts):
            self._draft = self.text
        self._at = target
        self.put(self.prompts[target] if target < len(self.prompts) else self._draft)

    def action_complete(self) -> None:
        found = matching(self.text, self._screen_name)
        if found:
            self.put(f"/{found[0].command}{' ' if found[0].argument else ''}")
        else:
            self._leave()

    def action_scroll_up(self) -> None:
        self.post_message(self.Scroll(-1))

    def action_scroll_down(self) -> None:
        self.post_message(self.Scroll(1))
