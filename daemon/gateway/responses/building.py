"""From a chat's chunks to a response: its items, and the events by which a client sees them grow. Pure."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from fcd.errors import ApiError
from fcd.wire.openai_responses import ResponseObject, ResponsesRequest

Event = dict[str, Any]


class Building:
    """One response. `feed` takes a chat's chunks in order; each call gives the events that follow, numbered."""

    def __init__(self, request: ResponsesRequest, now: float) -> None:
        self.response = _begin(request, now)
        self._wants_logprobs = request.wants_logprobs
        self._item: dict[str, Any] | None = None
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish = ""
        self._events: list[Event] = []
        self._number = 0

    @property
    def is_whole(self) -> bool:
        """The model came to an end, by itself or at a limit."""
        return bool(self._finish)

    def begin(self) -> list[Event]:
        for kind in ("response.created", "response.in_progress"):
            self._tell(kind, response=self._snapshot())
        return self._take()

    def feed(self, chunk: dict[str, Any]) -> list[Event]:
        self.response.model = chunk.get("model") or self.response.model
        if isinstance(usage := chunk.get("usage"), dict):
            self.response.usage = _usage(usage)
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                self._choice(choice)
        return self._take()

    def end(self, now: float) -> list[Event]:
        """The chat has come to its end."""
        cut = self._finish == "length"
        self._close("incomplete" if cut else "completed")
        self.response.status = "incomplete" if cut else "completed"
        self.response.completed_at = None if cut else now
        if cut:
            self.response.incomplete_details = {"reason": "max_output_tokens"}
        self._tell(f"response.{self.response.status}", response=self._snapshot())
        return self._take()

    def fail(self, error: ApiError) -> list[Event]:
        """It broke off; what there is of it stays."""
        self._close("incomplete")
        self.response.status = "failed"
        self.response.error = {"code": error.code or "server_error", "message": error.message}
        self._tell("response.failed", response=self._snapshot())
        return self._take()

    # Inside

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            self._add_text("reasoning", thought, [])
        if text := delta.get("content"):
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            self._add_text("message", text, logprobs if self._wants_logprobs else [])
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        self._finish = choice.get("finish_reason") or self._finish

    def _add_text(self, kind: str, text: str, logprobs: list[Any]) -> None:
        if self._item is None or self._item["type"] != kind:
            self._open_text(kind)
        part = self._part()
        part["text"] += text
        if kind == "message":
            part["logprobs"] += logprobs
            self._tell("response.output_text.delta", **self._where(), delta=text, logprobs=logprobs)
        else:
            self._tell("response.reasoning_text.delta", **self._where(), delta=text)

    def _open_text(self, kind: str) -> None:
        if kind == "message":
            item: dict[str, Any] = {"type": "message", "id": new_id("msg"), "role": "assistant"}
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        else:
            item = {"type": "reasoning", "id": new_id("rs"), "summary": []}
            part = {"type": "reasoning_text", "text": ""}
        self._open({**item, "status": "in_progress", "content": []})
        self._part_list().append(part)
        self._tell("response.content_part.added", **self._where(), part=dict(part))

    def _add_call(self, call: dict[str, Any]) -> None:
        index, function = int(call.get("index") or 0), call.get("function") or {}
        item = self._calls.get(index)
        if item is None:
            item = self._calls[index] = {
                "type": "function_call",
                "id": new_id("fc"),
                "call_id": call.get("id") or new_id("call"),
                "name": function.get("name") or "",
                "arguments": "",
                "status": "in_progress",
            }
            self._open(item)
        if more := function.get("arguments"):
            item["arguments"] += more
            where = {"item_id": item["id"], "output_index": self.response.output.index(item)}
            self._tell("response.function_call_arguments.delta", **where, delta=more)

    def _open(self, item: dict[str, Any]) -> None:
        self._close("completed")
        self._item = item
        self.response.output.append(item)
        self._tell("response.output_item.added", output_index=len(self.response.output) - 1, item=_copy(item))

    def _close(self, status: str) -> None:
        item = self._item
        if item is None:
            return
        index = {"item_id": item["id"], "output_index": self.response.output.index(item)}
        if item["type"] == "function_call":
            done = {"name": item["name"], "arguments": item["arguments"]}
            self._tell("response.function_call_arguments.done", **index, **done)
        else:
            part = self._part()
            if item["type"] == "message":
                done = {"text": part["text"], "logprobs": part["logprobs"]}
                self._tell("response.output_text.done", **self._where(), **done)
            else:
                self._tell("response.reasoning_text.done", **self._where(), text=part["text"])
            self._tell("response.content_part.done", **self._where(), part=_copy(part))
        item["status"] = status
        self._tell("response.output_item.done", output_index=index["output_index"], item=_copy(item))
        self._item = None

    def _part_list(self) -> list[dict[str, Any]]:
        assert self._item is not None
        parts: list[dict[str, Any]] = self._item["content"]
        return parts

    def _part(self) -> dict[str, Any]:
        return self._part_list()[-1]

    def _where(self) -> dict[str, Any]:
        assert self._item is not None
        return {
            "item_id": self._item["id"],
            "output_index": self.response.output.index(self._item),
            "content_index": 0,
        }

    def _snapshot(self) -> Any:
        return msgspec.to_builtins(self.response)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._events.append({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def _begin(request: ResponsesRequest, now: float) -> ResponseObject:
    """What is known from the request."""
    form = request.text.format if request.text is not None else None
    choice = request.tool_choice
    effort = request.reasoning.effort if request.reasoning is not None else None
    return ResponseObject(
        id=new_id("resp"),
        created_at=now,
        model=request.model,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        parallel_tool_calls=request.parallel_tool_calls is not False,
        reasoning={"effort": effort, "summary": None},
        temperature=request.temperature,
        text={"format": {"type": "text"} if form is None else _given(form)},
        tool_choice="auto" if choice is None else choice if isinstance(choice, str) else _given(choice),
        tools=[{"strict": False, "parameters": None, **_given(tool)} for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=request.top_p,
        user=request.user,
    )


def _given(value: msgspec.Struct) -> dict[str, Any]:
    return {name: given for name, given in msgspec.to_builtins(value).items() if given is not None}


def _copy(value: dict[str, Any]) -> dict[str, Any]:
    """As it is now: it goes on growing."""
    copied: dict[str, Any] = msgspec.to_builtins(value)
    return {name: [dict(each) for each in inner] if name == "content" else inner for name, inner in copied.items()}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    prompt, completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": prompt.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": completion.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens") or read + written,
    }
