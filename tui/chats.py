"""A conversation as the interface shows it: a copy of what the daemon holds, and of what is not sent yet."""

from __future__ import annotations

from typing import Any

import msgspec

from fcd.chattree import Place, Tree
from fcd.wire.chats import ChatEvent, ChatInfo, ChatMessage, ChatTree, QueuedQuestion

_ALONE = Place(0, 1)
_GROWS = ("content", "reasoning")


class Turn:
    """A question and its answer, as they stand below each other; one of them may be missing."""

    __slots__ = ("answer", "answer_place", "question", "question_place")

    def __init__(
        self,
        question: ChatMessage | None,
        answer: ChatMessage | None,
        question_place: Place = _ALONE,
        answer_place: Place = _ALONE,
    ) -> None:
        self.question = question
        self.answer = answer
        self.question_place = question_place
        self.answer_place = answer_place

    @property
    def key(self) -> tuple[str, str]:
        """The same for the same two messages."""
        return self.question.id if self.question else "", self.answer.id if self.answer else ""

    @property
    def asked(self) -> str:
        return self.question.content if self.question is not None else ""

    @property
    def said(self) -> str:
        return self.answer.content if self.answer is not None else ""


class Conversation:
    """One conversation; `id` is empty until the daemon knows it, which is when the first question is asked."""

    def __init__(self, model: str = "", system: str = "", params: dict[str, Any] | None = None) -> None:
        self.info = ChatInfo("", model=model, system=system, params=dict(params or {}))
        self.tree = Tree()
        self.pending: Turn | None = None
        """A question that the daemon has not taken yet, or could not."""
        self.queue: list[QueuedQuestion] = []
        """What waits in the daemon until the answer is written."""
        self.upcoming = ""
        """The answer that the daemon writes after the followed one, if it has told that already."""
        self.followed = ""
        """The answer whose stream is being read: until its end, that alone says what it is."""

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def model(self) -> str:
        return self.info.model

    @property
    def system(self) -> str:
        return self.info.system

    @property
    def params(self) -> dict[str, Any]:
        return self.info.params

    @property
    def running(self) -> ChatMessage | None:
        """The answer that is being written."""
        return self.tree.by_id.get(self.info.running)

    def load(self, tree: ChatTree) -> None:
        """What the daemon holds now. Messages that are known stay the same objects: their views hold on to them."""
        known = self.tree.by_id
        self.info = tree.chat
        self.queue = tree.queue
        if self.followed:
            self.upcoming = self.info.running if self.info.running != self.followed else ""
            self.info.running = self.followed
        self.tree = Tree(self._same(known.get(message.id), message) for message in tree.messages)

    def add(self, info: ChatInfo, *messages: ChatMessage) -> None:
        """The daemon has taken a question."""
        self.info = info
        for message in messages:
            if message.id not in self.tree.by_id:
                self.tree.add(message)
            self.tree.choose(message.id)

    def let_go(self, message: ChatMessage) -> None:
        """The followed answer is over, or cannot be followed any more."""
        self.followed = ""
        if self.info.running == message.id:
            self.info.running, self.upcoming = self.upcoming, ""

    def apply(self, message: ChatMessage, event: ChatEvent) -> None:
        """What is new of an answer."""
        if event.message is not None:
            for name in message.__struct_fields__:
                if event.type == "message" or name not in _GROWS:
                    setattr(message, name, getattr(event.message, name))
            return
        message.content += event.text
        message.reasoning += event.reasoning
        message.completion_tokens, message.tokens_per_second = event.tokens, event.tokens_per_second
        message.ttft_s, message.thought_s = event.ttft_s, event.thought_s
        if message.state == "waiting":
            message.state = "writing"

    def turns(self) -> list[Turn]:
        """What is shown."""
        found: list[Turn] = []
        for message in self.tree.path():
            place = self.tree.place(message)
            if message.role == "user":
                found.append(Turn(message, None, place))
            elif found and found[-1].answer is None:
                found[-1].answer, found[-1].answer_place = message, place
            else:
                found.append(Turn(None, message, _ALONE, place))
        return [*found, self.pending] if self.pending is not None else found

    def context(self) -> tuple[int, bool]:
        """Tokens of context that what is shown takes, and whether the model has counted all of them.

        An answer that is being written, was stopped or failed is not counted: then these are those up to the last one
        that was, and what has been written since.
        """
        since = 0
        answers = [turn.answer for turn in self.turns() if turn.answer is not None]
        for answer in reversed(answers):
            if answer.counted:
                return answer.prompt_tokens + answer.completion_tokens + since, answer is answers[-1]
            since += answer.completion_tokens
        return since, not since

    def last_question(self) -> ChatMessage | None:
        return next((turn.question for turn in self.turns()[::-1] if turn.question is not None), None)

    def questions(self) -> list[str]:
        return [turn.asked for turn in self.turns() if turn.question is not None]

    def _same(self, known: ChatMessage | None, now: ChatMessage) -> ChatMessage:
        if known is None:
            return now
        if now.id == self.followed:
            known.chosen = now.chosen
            return known
        for name in now.__struct_fields__:
            # What an answer being written says comes by its stream, from where this copy is.
            if not (now.is_running and name in _GROWS):
                setattr(known, name, getattr(now, name))
        return known


def with_settings(info: ChatInfo, **changes: Any) -> ChatInfo:
    return msgspec.structs.replace(info, **changes)
