"""One answer while it is written: from a model's chunks to a message, and to whoever follows it."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from fcd.errors import invalid
from fcd.think import ThinkSplitter
from fcd.wire.chats import ChatEvent, ChatMessage, MessageState

PACE_S = 0.03
"""The least time between two events to one client: what comes meanwhile goes together."""
LONGEST_ANSWER = 4_000_000
"""Characters; a model that never ends is cut there."""


class LiveAnswer:
    """The message is true at every moment: whatever ends the writing, it is what is kept."""

    def __init__(self, chat: str, message: ChatMessage, clock: Callable[[], float] = time.monotonic) -> None:
        self.chat = chat
        self.message = message
        self.asking: asyncio.Task[None] | None = None
        """Takes what the model says; this is what a stop cancels."""
        self.task: asyncio.Task[None] | None = None
        """Puts the end on disk: nobody cancels it."""
        self.ending: MessageState = "stopped"
        """What it is when its asking is cancelled."""
        self.entered = asyncio.Event()
        """Its question is on disk and `task` runs; or it could not be written, and there is no such answer."""
        self.dirty = False
        """There is something that is not on disk yet."""
        self.waits = False
        """A question was queued meanwhile."""
        self.over = False
        """It is complete and on disk."""
        self._clock = clock
        self._think = ThinkSplitter()
        self._begun = clock()
        self._first = 0.0
        self._last = 0.0
        self._pieces = 0
        self._changed = asyncio.Event()

    def take(self, chunk: Mapping[str, Any]) -> bool:
        """One of OpenAI's chunks; False when the answer is as long as it may be."""
        message = self.message
        usage = chunk.get("usage")
        if usage:
            message.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            message.completion_tokens = int(usage.get("completion_tokens") or 0)
            message.counted = True
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
            answer, tagged = self._think.feed(delta.get("content") or "")
            if delta.get("content") or thought:
                self._tick()
            self._add(answer, thought + tagged)
            if choice.get("finish_reason") == "length":
                message.state = "cut"
        self._tell()
        return len(message.content) + len(message.reasoning) < LONGEST_ANSWER

    def finish(self, state: MessageState, error: str = "", code: str = "") -> None:
        """No more will come. An answer that was cut by the token limit stays so when it is `done`."""
        self._add(*self._think.finish())
        self._measure()
        message = self.message
        message.seconds = self._clock() - self._begun
        message.error, message.error_code = error, code
        if not (state == "done" and message.state == "cut"):
            message.state = state
        self._tell()

    def stop(self, ending: MessageState = "stopped") -> None:
        """Have it end. Once: a second cancellation would break off what the first began to tidy up."""
        if self.asking is not None and not self.asking.done() and not self.asking.cancelling():
            self.ending = ending
            self.asking.cancel()

    def close(self) -> None:
        """It is on disk: those who follow are told that it is over."""
        self.over = True
        self._tell()

    async def follow(self, cursor: str = "") -> AsyncGenerator[ChatEvent, None]:
        """From `cursor` (or all of it) to the end. Every client has its own place in it, so that none is waited for.

        Raises:
            ApiError: 400, the cursor is none.
        """
        async for event in follow(self.message, cursor, self._wait, lambda: self.over):
            yield event

    async def _wait(self) -> None:
        changed = self._changed
        await changed.wait()
        if not self.over:
            await asyncio.sleep(PACE_S)

    def _tell(self) -> None:
        self.dirty = True
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _tick(self) -> None:
        self._last = self._clock()
        self._pieces += 1
        if self._pieces == 1:
            self._first = self._last
            self.message.ttft_s = self._first - self._begun
        if not self.message.counted:
            self.message.completion_tokens = self._pieces
        self._measure()

    def _add(self, answer: str, thought: str) -> None:
        self.message.reasoning += thought
        if thought:
            self.message.thought_s = self._clock() - self._begun
        self.message.content += answer
        if (answer or thought) and self.message.state == "waiting":
            self.message.state = "writing"

    def _measure(self) -> None:
        """Decoding speed: tokens after the first, over the time since the first."""
        span = self._last - self._first
        tokens = self.message.completion_tokens - 1
        self.message.tokens_per_second = tokens / span if span > 0 and tokens > 0 else 0.0


async def follow(
    message: ChatMessage, cursor: str, wait: Callable[[], Any], is_over: Callable[[], bool]
) -> AsyncGenerator[ChatEvent, None]:
    """The events of a message that may still grow; `wait` returns after a change."""
    thought, said = read_cursor(cursor)
    if not cursor or thought > len(message.reasoning) or said > len(message.content):
        # What a client has seen and a killed daemon had not yet written is taken back: it gets all of it anew.
        thought, said = len(message.reasoning), len(message.content)
        yield ChatEvent("message", _copy(message), cursor=make_cursor(thought, said), **_figures(message))
    while True:
        over = is_over()
        new_thought, new_said = len(message.reasoning), len(message.content)
        if new_thought > thought or new_said > said:
            event = ChatEvent("delta", None, message.content[said:], message.reasoning[thought:], **_figures(message))
            thought, said = new_thought, new_said
            event.cursor = make_cursor(thought, said)
            yield event
        elif over:
            break
        else:
            await wait()
    ended = _copy(message)
    ended.content = ended.reasoning = ""
    yield ChatEvent("end", ended, cursor=make_cursor(thought, said), **_figures(message))


def make_cursor(thought: int, said: int) -> str:
    """Characters of the thoughts and of the answer."""
    return f"{thought}.{said}"


def read_cursor(text: str) -> tuple[int, int]:
    """Raises ApiError: 400, it is no cursor."""
    if not text:
        return 0, 0
    thought, dot, said = text.partition(".")
    if not dot or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (thought, said)):
        raise invalid("cursor", "'cursor' must be one that an event of this stream carried.")
    return int(thought), int(said)


def _figures(message: ChatMessage) -> dict[str, Any]:
    return {
        "tokens": message.completion_tokens,
        "tokens_per_second": message.tokens_per_second,
        "ttft_s": message.ttft_s,
        "thought_s": message.thought_s,
    }


def _copy(message: ChatMessage) -> ChatMessage:
    return copy.copy(message)
