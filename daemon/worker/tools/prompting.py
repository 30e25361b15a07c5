"""Tools for models whose chat template knows none: a system prompt in the words of Hermes and Qwen models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from daemon.worker.tools.hermes import CLOSE, OPEN
from fcd.wire.openai_chat import Message, ToolCall

_INTRODUCTION: Final = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within {open}{close} XML tags:
{open}
{{"name": <function-name>, "arguments": <args-json-object>}}
{close}"""


def in_plain_words(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, as_user: bool = False
) -> list[Message]:
    """The same conversation with tools, calls and results written out as text.

    Args:
        as_user: put the description of the tools into the first user message, for templates without a system role.
    """
    plain: list[Message] = []
    for message in messages:
        if message.role == "tool":
            _add_result(plain, message)
        elif message.tool_calls:
            text = "\n".join(filter(None, [message.text, *map(_call, message.tool_calls)]))
            plain.append(replace(message, content=text, tool_calls=None))
        else:
            plain.append(message)
    if tools:
        _introduce(plain, _describe(tools), "user" if as_user else "system")
    return plain


def _describe(tools: Sequence[Mapping[str, Any]]) -> str:
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return _INTRODUCTION.format(tools=listed, open=OPEN, close=CLOSE)


def _introduce(messages: list[Message], text: str, role: str) -> None:
    roles = ("system", "developer") if role == "system" else ("user",)
    for position, message in enumerate(messages):
        if message.role in roles:
            both = (message.text, text) if role == "system" else (text, message.text)
            messages[position] = replace(message, content="\n\n".join(filter(None, both)))
            return
    messages.insert(0, Message(role="system" if role == "system" else "user", content=text))


def _call(call: ToolCall) -> str:
    try:
        arguments = json.loads(call.function.arguments)
    except ValueError:
        arguments = call.function.arguments
    body = json.dumps({"name": call.function.name, "arguments": arguments}, ensure_ascii=False)
    return f"{OPEN}\n{body}\n{CLOSE}"


def _add_result(messages: list[Message], message: Message) -> None:
    """Results come from the user; several in a row are one message, since many templates want roles to alternate."""
    text = f"<tool_response>\n{message.text}\n</tool_response>"
    last = messages[-1] if messages else None
    if last is not None and last.role == "user" and last.text.startswith("<tool_response>"):
        messages[-1] = replace(last, content=f"{last.text}\n{text}")
    else:
        messages.append(Message(role="user", content=text))
