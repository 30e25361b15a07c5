"""Tokens of answers that were stopped early: their workers' counts never came."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from daemon.arena.asking import Asker
from daemon.arena.records import StoredAnswer, StoredTurn
from fcd.errors import ApiError, NotRunning
from fcd.wire.arena import Side

log = logging.getLogger("fcd.arena")

_LIMIT_S = 1.0
"""A vote waits for it. Without a count, the board goes by the length of the text."""


async def count_cut(asker: Asker, models: Mapping[Side, str], turn: StoredTurn) -> None:
    """Have each side's own tokenizer count what was kept of its answer, where nobody has."""
    sides: dict[Side, StoredAnswer] = {"a": turn.a, "b": turn.b}
    await asyncio.gather(*(_count(asker, models[side], answer) for side, answer in sides.items()))


async def _count(asker: Asker, model: str, answer: StoredAnswer) -> None:
    if not answer.text or answer.stats.completion_tokens:
        return
    try:
        async with asyncio.timeout(_LIMIT_S):
            answer.stats.completion_tokens = await asker.count(model, answer.text)
    except (TimeoutError, ApiError, NotRunning, KeyError, TypeError, ValueError) as error:
        log.debug("the tokens of a stopped answer of %s are not counted: %s", model, error)
