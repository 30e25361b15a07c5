"""A conversation as a tree of messages: which of them are shown, where the others are, what a model is sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fcd.wire.chats import Attachment, ChatMessage

_LONGEST_TITLE = 60


class Place(NamedTuple):
    """Which variant of how many; counted from 0."""

    at: int
    of: int


class Tree:
    """Messages by parent. The path that is shown follows the chosen ones from the first on."""

    def __init__(self, messages: Iterable[ChatMessage] = ()) -> None:
        self.by_id: dict[str, ChatMessage] = {}
        self._children: dict[str, list[ChatMessage]] = {}
        for message in messages:
            self.add(message)

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, message: ChatMessage) -> None:
        """Enter a message below its parent, after its older variants; it is chosen if it says so."""
        self.by_id[message.id] = message
        siblings = self._children.setdefault(message.parent, [])
        siblings.append(message)
        if message.chosen:
            for other in siblings[:-1]:
                other.chosen = False

    def children(self, parent: str = "") -> Sequence[ChatMessage]:
        return self._children.get(parent, ())

    def path(self) -> list[ChatMessage]:
        """What is shown, in its order."""
        found: list[ChatMessage] = []
        at = ""
        while (following := next((each for each in self.children(at) if each.chosen), None)) is not None:
            found.append(following)
            at = following.id
        return found

    def path_to(self, message: str) -> list[ChatMessage]:
        """From the first message to this one, both included."""
        found: list[ChatMessage] = []
        while message:
            each = self.by_id[message]
            found.append(each)
            message = each.parent
        return found[::-1]

    def place(self, message: ChatMessage) -> Place:
        siblings = self.children(message.parent)
        return Place(next(index for index, each in enumerate(siblings) if each.id == message.id), len(siblings))

    def neighbour(self, message: ChatMessage, step: int) -> ChatMessage | None:
        """The variant `step` away; None beyond the ends."""
        place = self.place(message)
        index = place.at + step
        return self.children(message.parent)[index] if 0 <= index < place.of else None

    def choose(self, message: str) -> None:
        """Show the path that goes through this message; below it, what was chosen there before."""
        for each in self.path_to(message):
            for sibling in self.children(each.parent):
                sibling.chosen = sibling is each


def content_of(message: ChatMessage) -> str | list[dict[str, Any]]:
    """A message's content as a request has it."""
    return with_files(message.content, message.attachments)


def with_files(text: str, files: Sequence[Attachment]) -> str | list[dict[str, Any]]:
    """A question with its files, as a request has it: text files are fenced below it, images are parts."""
    for attached in files:
        if not attached.is_image:
            text += f"\n\n{fenced(attached)}"
    images = [attached for attached in files if attached.is_image]
    if not images:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    return parts + [{"type": "image_url", "image_url": {"url": image.data}} for image in images]


def fenced(attached: Attachment) -> str:
    """A text file with its name, in a fence longer than any that it holds."""
    fence = "```"
    while fence in attached.data:
        fence += "`"
    suffix = attached.name.rpartition(".")[2] if "." in attached.name else ""
    language = suffix if suffix.isalnum() else ""
    end = "" if attached.data.endswith("\n") else "\n"
    return f"{attached.name}:\n\n{fence}{language}\n{attached.data}{end}{fence}"


def request_messages(system: str, path: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """What the model is sent for the next answer; answers that hold nothing are left out."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for message in path:
        if message.role == "user" or message.content:
            messages.append({"role": message.role, "content": content_of(message)})
    return messages


def beginning_of(text: str) -> str:
    """A title from a question: its first line, at most 60 characters."""
    line = text.strip().partition("\n")[0].strip()
    return line if len(line) <= _LONGEST_TITLE else line[: _LONGEST_TITLE - 3] + "..."
