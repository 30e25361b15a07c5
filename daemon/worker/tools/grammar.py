"""The form that an answer must have, as a structural tag of xgrammar: JSON, calls of tools, thinking before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemon.engines.base import GrammarSpec, SchemaSource
from daemon.worker.reasoning import ThinkTags
from daemon.worker.tools import hermes, llama, mistral
from daemon.worker.tools.families import ToolFamily
from fcd.wire.openai_tools import JsonForm, ToolUse

MAX_CALLS: Final = 16
"""Calls in one answer when they are required: without a bound, one that is never satisfied would never end."""

_NO_ARGUMENTS: Final[dict[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}
_SPACES: Final = " \\n\\r\\t"
_GAP: Final = {"type": "grammar", "grammar": f"root ::= [{_SPACES}]{{0,8}}"}
_OBJECT_HEAD: Final = '{"name": "'


@dataclass(frozen=True, slots=True)
class Thinking:
    """What may stand before the answer. `opened`: the prompt has opened the block; else the model may."""

    tags: ThinkTags
    opened: bool


def json_spec(form: JsonForm, thinking: Thinking | None) -> GrammarSpec:
    """The answer is JSON."""
    source = SchemaSource(form.schema, form.param, form.strict)
    return GrammarSpec(_after_thinking({"type": "schema", "index": 0}, thinking, gap=True), (source,))


def tools_spec(family: ToolFamily, use: ToolUse, form: JsonForm | None, thinking: Thinking | None) -> GrammarSpec:
    """The answer may (or must) call tools; with `form`, it is JSON where it does not."""
    sources = [SchemaSource(tool.parameters or _NO_ARGUMENTS, tool.param, tool.strict) for tool in use.tools]
    calls = _Calls(family, [tool.name for tool in use.tools], several=use.parallel and family.several)
    if use.required:
        answer, gap = calls.required(), True
    elif form is not None:
        sources.append(SchemaSource(form.schema, form.param, form.strict))
        answer, gap = _either(calls.required(), {"type": "schema", "index": len(sources) - 1}), True
    else:
        answer, gap = calls.free(thinking), False
    return GrammarSpec(_after_thinking(answer, thinking, gap=gap), tuple(sources), "tools")


class _Calls:
    """The calls of one family. `several`: more than one in an answer."""

    def __init__(self, family: ToolFamily, names: Sequence[str], *, several: bool) -> None:
        self._family = family
        self._names = names
        self._several = several

    def required(self) -> dict[str, Any]:
        """Nothing but calls, one at least."""
        if self._family.name == "llama":
            return _sequence({"type": "optional", "content": _const(llama.TAG)}, _either(*self._tags()))
        if self._family.name == "mistral":
            return self._list()
        between = _const("\n") if self._family.name == "hermes" else None
        return self._repeated(_either(*self._tags()), between)

    def free(self, thinking: Thinking | None) -> dict[str, Any]:
        """Text, and calls where the model begins one."""
        excludes = [] if thinking is None else [thinking.tags.open, thinking.tags.close]
        if self._family.name == "llama":
            return _sequence(_GAP, {"type": "optional", "content": _either(self.required(), _no_object(excludes))})
        trigger = hermes.OPEN if self._family.name == "hermes" else mistral.CALLS
        tags = [self._list()] if self._family.name == "mistral" else self._tags()
        return {
            "type": "triggered_tags",
            "triggers": [trigger],
            "tags": tags,
            "excludes": excludes,
            "stop_after_first": self._family.name == "mistral" or not self._several,
        }

    def _tags(self) -> list[dict[str, Any]]:
        if self._family.name == "hermes":
            head, key, end = f"{hermes.OPEN}\n{_OBJECT_HEAD}", '", "arguments": ', f"}}\n{hermes.CLOSE}"
        elif self._family.name == "mistral_args":
            head, key, end = mistral.CALLS, mistral.ARGS, ""
        else:
            argument_key = "parameters" if self._family.name == "llama" else "arguments"
            head, key, end = _OBJECT_HEAD, f'", "{argument_key}": ', "}"
        return [
            {"type": "tag", "begin": f"{head}{name}{key}", "content": {"type": "schema", "index": index}, "end": end}
            for index, name in enumerate(self._names)
        ]

    def _list(self) -> dict[str, Any]:
        content = self._repeated(_either(*self._tags()), _const(", "))
        return {"type": "tag", "begin": f"{mistral.CALLS}[", "content": content, "end": "]"}

    def _repeated(self, call: dict[str, Any], between: dict[str, Any] | None) -> dict[str, Any]:
        if not self._several:
            return call
        more = call if between is None else _sequence(between, call)
        return _sequence(call, {"type": "repeat", "min": 0, "max": MAX_CALLS - 1, "content": more})


def _after_thinking(answer: dict[str, Any], thinking: Thinking | None, *, gap: bool) -> dict[str, Any]:
    if thinking is None:
        return answer
    tags = thinking.tags
    begin = "" if thinking.opened else tags.open
    thought: dict[str, Any] = {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": tags.close}
    if gap:
        thought = _sequence(thought, _GAP)
    return _sequence(thought if thinking.opened else {"type": "optional", "content": thought}, answer)


def _no_object(excludes: list[str]) -> dict[str, Any]:
    """Any text but none, and none that begins as a call does: that must be a call."""
    others = [
        f'"{_quoted(_OBJECT_HEAD[:size])}" [^{_quoted(_OBJECT_HEAD[size])}{"" if size else _SPACES}]'
        for size in range(len(_OBJECT_HEAD))
    ]
    head = {"type": "grammar", "grammar": "root ::= " + " | ".join(others)}
    return _sequence(head, {"type": "any_text", "excludes": [llama.TAG, *excludes]})


def _quoted(text: str) -> str:
    return text.replace('"', '\\"')


def _sequence(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"type": "sequence", "elements": list(elements)}


def _either(*elements: dict[str, Any]) -> dict[str, Any]:
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": list(elements)}


def _const(text: str) -> dict[str, Any]:
    return {"type": "const_string", "value": text}
