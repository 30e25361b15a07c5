"""Tools and the form of the answer in a chat: `tools`, `tool_choice`, `parallel_tool_calls`, `response_format`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from fcd.errors import invalid

MAX_TOOLS: Final = 128
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class FunctionDefinition(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class JsonSchemaFormat(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that may be called. `parameters` is a JSON schema, None for no parameters."""

    name: str
    parameters: dict[str, Any] | None
    strict: bool
    param: str
    """The field that holds the schema, for errors."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request lets a model do with tools."""

    tools: tuple[OfferedTool, ...]
    """Those that may be called: all of them, or the one that was named."""
    required: bool
    parallel: bool
    definitions: tuple[dict[str, Any], ...]
    """All tools as the request wrote them, for the prompt."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools)


@dataclass(frozen=True, slots=True)
class JsonForm:
    """The answer must be JSON that fits a schema."""

    schema: dict[str, Any]
    strict: bool
    param: str


def tool_use(tools: list[Tool] | None, choice: ToolChoice | None, parallel: bool | None) -> ToolUse | None:
    """What may be called; None for nothing.

    Raises:
        ApiError: 400 naming the field.
    """
    if not tools:
        if isinstance(choice, NamedTool) or choice == "required":
            raise invalid("tool_choice", "'tool_choice' asks for a call, and 'tools' offers nothing to call.")
        if parallel is not None:
            raise invalid("parallel_tool_calls", "'parallel_tool_calls' is only allowed when 'tools' are given.")
        return None
    _check_tools(tools)
    if choice == "none":
        return None
    offered = tuple(_offered(tool.function, position) for position, tool in enumerate(tools))
    if isinstance(choice, NamedTool):
        name = choice.function.name
        offered = tuple(tool for tool in offered if tool.name == name)
        if not offered:
            raise invalid("tool_choice.function.name", f"'tool_choice' names '{name[:64]}', which is not in 'tools'.")
    return ToolUse(
        offered,
        required=choice == "required" or isinstance(choice, NamedTool),
        # A choice of one tool is one call of it.
        parallel=parallel is not False and not isinstance(choice, NamedTool),
        definitions=tuple(_definition(tool) for tool in tools),
    )


def json_form(asked: ResponseFormat | None) -> JsonForm | None:
    """The form that the answer must have; None for text.

    Raises:
        ApiError: 400 naming the field.
    """
    if asked is None:
        return None
    if asked.type != "json_schema":
        if asked.json_schema is not None:
            raise invalid("response_format.json_schema", "'json_schema' belongs to the type 'json_schema'.")
        return JsonForm({"type": "object"}, False, "response_format") if asked.type == "json_object" else None
    given = asked.json_schema
    if given is None:
        raise invalid("response_format.json_schema", "'response_format.json_schema' is required for this type.")
    _check_name(given.name, "response_format.json_schema.name")
    if given.schema is None:
        raise invalid("response_format.json_schema.schema", "'response_format.json_schema.schema' is required.")
    return JsonForm(given.schema, bool(given.strict), "response_format.json_schema.schema")


def _check_tools(tools: list[Tool]) -> None:
    if len(tools) > MAX_TOOLS:
        raise invalid("tools", f"'tools' may hold {MAX_TOOLS} tools, not {len(tools)}.")
    seen: set[str] = set()
    for position, tool in enumerate(tools):
        name, where = tool.function.name, f"tools[{position}].function"
        _check_name(name, f"{where}.name")
        if name in seen:
            raise invalid(f"{where}.name", f"Two tools are called '{name}'.")
        seen.add(name)
        kind = (tool.function.parameters or {}).get("type", "object")
        if kind != "object":
            raise invalid(f"{where}.parameters", f"'{where}.parameters' must be a schema of type 'object'.")


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise invalid(where, f"'{where}' must have 1 to 64 letters, digits, '_', '-' or '.'.")


def _offered(function: FunctionDefinition, position: int) -> OfferedTool:
    given = function.parameters
    schema = {"type": "object", **given} if given else None
    return OfferedTool(function.name, schema, bool(function.strict), f"tools[{position}].function.parameters")


def _definition(tool: Tool) -> dict[str, Any]:
    """A tool as templates expect it: no nulls, and always parameters."""
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.description is not None:
        function["description"] = tool.function.description
    function["parameters"] = tool.function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}
