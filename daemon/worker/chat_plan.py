"""What a chat request asks of the answer's form: the grammar to keep it to, and how to read it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daemon.engines.base import GrammarSpec
from daemon.worker.answer import AnswerReader
from daemon.worker.prompts import Prompter
from daemon.worker.reasoning import Reasoner, ReasoningSplitter, ThinkTags
from daemon.worker.tools.families import ToolFamily
from daemon.worker.tools.grammar import Thinking, json_spec, tools_spec
from fcd.errors import ApiError, invalid
from fcd.wire.openai import ChatRequest


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """How one request's answers are constrained and read."""

    spec: GrammarSpec | None
    family: ToolFamily
    names: frozenset[str] | None
    """The tools that may be called; None without tools."""
    tags: ThinkTags | None
    opened: bool
    """The prompt has opened the block of thinking."""
    calls_only: bool
    """The answer must be calls."""
    show_specials: bool
    """The marks to read by may be special tokens, so the text must have them."""

    @property
    def plain(self) -> bool:
        """The text is the answer."""
        return self.names is None and self.tags is None

    def reader(self) -> AnswerReader:
        """A reader for one completion."""
        splitter = None if self.tags is None else ReasoningSplitter(self.tags, opened=self.opened)
        parser = None if self.names is None else self.family.parser(self.names)
        return AnswerReader(splitter, parser, calls_only=self.calls_only)


def plan_chat(prompter: Prompter, asked: ChatRequest, prompt: str) -> ChatPlan:
    """Read a request's fields beside its rendered prompt.

    Raises:
        ApiError: 400 naming the field that cannot be used.
    """
    use, form, tags = asked.tool_use, asked.json_form, prompter.reasoner.tags
    opened = prompter.reasoner.opened_by(prompt)
    thinking = None if tags is None or prompter.reasoner.closed_by(prompt) else Thinking(tags, opened)
    spec: GrammarSpec | None = None
    if use is not None:
        spec = tools_spec(prompter.family, use, form, thinking)
    elif form is not None:
        spec = json_spec(form, thinking)
    return ChatPlan(
        spec,
        prompter.family,
        None if use is None else use.names,
        tags,
        opened,
        calls_only=use is not None and use.required,
        show_specials=spec is not None or (tags is not None and tags.close in prompter.special_tokens),
    )


def template_kwargs(reasoner: Reasoner, asked: ChatRequest) -> dict[str, Any]:
    """What the chat template gets beside the messages: `chat_template_kwargs` and `reasoning_effort`.

    Raises:
        ApiError: 400 when the template has no switch for what is asked.
    """
    kwargs = dict(asked.chat_template_kwargs or {})
    if kwargs.get("enable_thinking") and "enable_thinking" not in reasoner.switches:
        param = "chat_template_kwargs.enable_thinking"
        raise ApiError(400, f"'{param}': this model has no such switch.", code="unsupported_parameter", param=param)
    effort = asked.reasoning_effort
    if effort is None:
        return kwargs
    name: str
    value: str | bool
    if "reasoning_effort" in reasoner.switches:
        name, value = "reasoning_effort", effort
    elif effort == "none" and "enable_thinking" in reasoner.switches:
        name, value = "enable_thinking", False
    else:
        raise ApiError(
            400,
            f"'reasoning_effort': this model's chat template has no switch for '{effort}'.",
            code="unsupported_parameter",
            param="reasoning_effort",
        )
    if kwargs.setdefault(name, value) != value:
        raise invalid("reasoning_effort", f"'reasoning_effort' and 'chat_template_kwargs.{name}' differ; give one.")
    return kwargs
