"""Events out of an answer's bytes, and what becomes of an answer with one that is too long."""

from __future__ import annotations

import asyncio

import pytest

from daemon.gateway import outlet
from daemon.gateway.outlet import EventReader, Inbox
from fcd.errors import ApiError

STREAM = b'event: a\r\ndata: {"n": 1}\r\n\r\n: comment\n\ndata: x\ndata: y\n\ndata: [DONE]\n\n'
EVENTS = [("a", '{"n": 1}'), ("", "x\ny"), ("", "[DONE]")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_wherever_they_were_cut(size: int) -> None:
    reader = EventReader()
    parts = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [event for part in parts for event in reader.feed(part)] == EVENTS


@pytest.mark.parametrize("at", [2**20, 10, 2**21])
def test_an_event_that_is_too_long_fails_the_answer_after_what_came_before_it(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(outlet, "_LONGEST_EVENT", 2**20)

    async def main() -> list[dict[str, int]]:
        inbox, taken = Inbox("x"), list[dict[str, int]]()
        told = b'data: {"n": 1}\n\ndata: {"n": 2}\n\ndata: "' + b"x" * 2**20 + b'"\n\ndata: {"n": 3}\n\n'
        inbox.write(told[:at])
        inbox.write(told[at:])
        await inbox.end()

        async def take() -> None:
            async for chunk in inbox.chunks():
                taken.append(chunk)

        with pytest.raises(ApiError, match="more than 1 MiB") as failed:
            await take()
        assert (failed.value.status, failed.value.code) == (502, "event_too_long")
        return taken

    assert asyncio.run(main()) == [{"n": 1}, {"n": 2}]
