"""Two models that are none: `arena` answers from one side of a new blind battle, `best` is the board's leader."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.arena.arena import Arena, voter_of
from daemon.context import DaemonContext
from daemon.gateway.routing import RoutedCall
from daemon.gateway.sse import COMMENT, CONTENT_TYPE, error_event
from daemon.http import json_response
from fcd.errors import ApiError, invalid, unsupported
from fcd.wire.arena import BattleEvent, BattleRequest, Sampling
from fcd.wire.openai_chat import ChatRequest, Message, parse_chat
from fcd.wire.openai_images import blind

ARENA = "arena"
BEST = "best"
BATTLE_HEADER = "X-Fcd-Battle"

_TAKEN = frozenset(
    {
        "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens",
        "seed", "n", "keep_alive", "user", "metadata", "store", "service_tier", "safety_identifier",
        "prompt_cache_key", "prompt_cache_retention",
    }
)  # fmt: skip
_BEST_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


class ArenaModels:
    """What the gateway asks before it looks for a worker. A real model of the same name comes first."""

    def __init__(self, context: DaemonContext, arena: Arena) -> None:
        self._context = context
        self._arena = arena

    def takes(self, path: str, model: str) -> bool:
        if model not in (ARENA, BEST):
            return False
        if path not in _BEST_PATHS or (model == ARENA and path != "/v1/chat/completions"):
            return False
        return all(known.name != model for known in self._context.controller.models())

    async def listed(self) -> list[str]:
        """`arena` where two models can be drawn, `best` where it stands for one; not where a model has that name."""
        await self._arena.ready()
        real = {model.name for model in self._context.controller.models()}
        found = [ARENA] if ARENA not in real and self._arena.can_battle() else []
        if BEST not in real:
            with suppress(ApiError):
                self._arena.leader()
                found.append(BEST)
        return found

    async def best(self, call: RoutedCall, body: bytes) -> tuple[RoutedCall, bytes]:
        """The call and its body with the leader's name in it."""
        await self._arena.ready()
        leader = self._arena.leader()
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        fields["model"] = msgspec.Raw(msgspec.json.encode(leader))
        return msgspec.structs.replace(call, model=leader), msgspec.json.encode(fields)

    async def answer(self, request: Request[Any, Any]) -> HTTPResponse | None:
        """Side a of a new battle. Usage is not told: a tokenizer would betray its model."""
        asked = parse_chat(request.body)
        _check(asked)
        system, history, prompt = _split(asked.messages)
        caller = request.ctx.caller
        voter = voter_of(caller.kind, caller.name)
        sampling = Sampling(
            0.7 if asked.temperature is None else asked.temperature,
            1.0 if asked.top_p is None else asked.top_p,
            asked.limit or Sampling().max_tokens,
            asked.seed,
        )
        wanted = BattleRequest(system=system, sampling=sampling, prompt=prompt)
        info = await self._arena.create(wanted, voter, history=history)
        events = await self._arena.watch(info.id, voter)
        if asked.streams:
            await self._stream(request, info.id, events)
            return None
        return await self._whole(info.id, events)

    async def _whole(self, battle: str, events: AsyncGenerator[BattleEvent, None]) -> HTTPResponse:
        text, failed = "", ""
        async with aclosing(events):
            async for event in events:
                text += _text_of(event)
                failed = _error_of(event) or failed
                if _is_over(event):
                    break
        if failed:
            raise ApiError(502, failed, code="worker_died")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self._finish(battle)}
        body = _object(battle, "chat.completion", choice)
        return json_response(body, headers={BATTLE_HEADER: battle})

    def _finish(self, battle: str) -> str:
        return "length" if self._arena.was_cut(battle) else "stop"

    async def _stream(self, request: Request[Any, Any], battle: str, events: AsyncGenerator[BattleEvent, None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", BATTLE_HEADER: battle}
        response: Any = await request.respond(content_type=CONTENT_TYPE, headers=headers)
        await response.send(COMMENT + _chunk(battle, {"role": "assistant", "content": ""}))
        async with aclosing(events):
            async for event in events:
                if error := _error_of(event):
                    await response.send(error_event(ApiError(502, error, code="worker_died")))
                    await response.send(end_stream=True)
                    return
                if text := _text_of(event):
                    await response.send(_chunk(battle, {"content": text}))
                if _is_over(event):
                    break
        await response.send(_chunk(battle, {}, finish=self._finish(battle)) + b"data: [DONE]\n\n")
        await response.send(end_stream=True)


def _check(asked: ChatRequest) -> None:
    """Every field is honoured or refused by name; both sides must be asked alike."""
    for name in asked.__struct_fields__:
        if name not in _TAKEN and getattr(asked, name) not in (None, False, [], {}):
            raise unsupported(name)
    if asked.choices != 1:
        raise invalid("n", "'n' must be 1 with the model 'arena'.")
    if asked.wants_usage:
        raise unsupported("stream_options.include_usage")
    if where := asked.first_image:
        raise blind(asked.model, where, "a battle is between models that are not known yet, and text is all they share")


def _split(messages: list[Message]) -> tuple[str, list[dict[str, Any]], str]:
    """System message, what was said before, and the last question."""
    system = [message.text for message in messages if message.role in ("system", "developer")]
    rest = [message for message in messages if message.role not in ("system", "developer")]
    if not rest or rest[-1].role != "user" or any(message.role == "tool" for message in rest):
        raise invalid("messages", "'messages' must end in a user's message, and hold no tools, with the model 'arena'.")
    history = [{"role": message.role, "content": message.text} for message in rest[:-1]]
    return "\n\n".join(system), history, rest[-1].text


def _text_of(event: BattleEvent) -> str:
    """What this event adds to side a; the first event holds what was there before."""
    if event.type == "battle" and event.battle is not None and event.battle.turns:
        return event.battle.turns[-1].a.text
    return event.text if event.type == "delta" and event.side == "a" else ""


def _error_of(event: BattleEvent) -> str:
    return event.error if event.type == "failed" and event.side == "a" else ""


def _is_over(event: BattleEvent) -> bool:
    return event.type == "end" or (event.type == "done" and event.side == "a")


def _object(battle: str, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{battle}",
        "object": kind,
        "created": int(time.time()),
        "model": ARENA,
        "choices": [choice],
    }


def _chunk(battle: str, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + msgspec.json.encode(_object(battle, "chat.completion.chunk", choice)) + b"\n\n"
