"""From messages to token ids: the tokenizer's own chat template, or a named one, and BOS exactly once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from daemon.worker.reasoning import detect_reasoning, mentions
from daemon.worker.tools.families import detect_family
from daemon.worker.tools.prompting import in_plain_words
from fcd.errors import ApiError, UsageError, invalid
from fcd.templates import DEFAULT, ConvTemplate, Turn, get_template
from fcd.wire.openai import Message

log = logging.getLogger("fcd.worker")

_PROBE = "@@probe@@"
LONG_TEXT = 8_000
"""Characters above which rendering and tokenising leave the event loop."""

T = TypeVar("T")


class Prompter:
    """One model's way from text to token ids.

    Args:
        template: a named template that takes the place of the tokenizer's own; None uses the tokenizer's.
        raw: the model takes plain text (an encoder-decoder): the prompt of a chat is the last user message.
        sees: the model takes images.
    """

    def __init__(self, tokenizer: Any, template: ConvTemplate | None, *, raw: bool = False, sees: bool = False) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.raw = raw
        self.bos_id: int | None = tokenizer.bos_token_id
        self._source = "" if template is not None or raw else _template_source(tokenizer)
        added = {str(token): token for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        self.special_tokens = frozenset(text for text, token in added.items() if getattr(token, "special", False))
        self._parts = bool(self._source) and not self._takes_texts()
        """The template reads messages part by part, and passes over one that is a plain string."""
        self.image_mark = self._find_image_mark() if sees and self._source else ""
        """What a rendered chat has where an image stands; empty where the template has no place for one."""
        self.family = detect_family(self._source, added)
        self.reasoner = detect_reasoning(self._source, added)

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings that belong to the template."""
        return self.template.stop if self.template is not None else ()

    @property
    def specials_by_default(self) -> bool:
        """Whether a rendered chat gets the tokenizer's special tokens; its own template writes them itself."""
        return self.raw or self.template is not None

    def render(
        self,
        messages: Sequence[Message],
        kwargs: dict[str, Any] | None = None,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] = (),
    ) -> str:
        """The prompt's text. A template that knows no tools gets them, their calls and results as plain text.

        Raises:
            ApiError: 400 naming the message, or the parameter, that the template has no place for.
        """
        self._check_kwargs(kwargs)
        if "tool_calls" not in self._source and any(m.role == "tool" or m.tool_calls for m in messages):
            messages = in_plain_words(messages, ())
        if tools and not self.family.native:
            return self._render_plainly(messages, kwargs, add_generation_prompt, tools)
        return self._render(messages, kwargs, add_generation_prompt, tools)

    def _check_kwargs(self, kwargs: dict[str, Any] | None) -> None:
        """A template passes over what it does not read. What is false or null asks for nothing that could be missed."""
        if self.template is not None:
            return
        for name, value in (kwargs or {}).items():
            if value is not None and value is not False and not mentions(self._source, name):
                raise ApiError(
                    400,
                    f"'chat_template_kwargs.{name}': this model's chat template reads no such parameter.",
                    code="unsupported_parameter",
                    param=f"chat_template_kwargs.{name}",
                )

    def _render_plainly(
        self,
        messages: Sequence[Message],
        kwargs: dict[str, Any] | None,
        add_generation_prompt: bool,
        tools: Sequence[dict[str, Any]],
    ) -> str:
        if self.raw:
            raise ApiError(400, "This model answers one text at a time and calls no tools.", param="tools")
        try:
            return self._render(in_plain_words(messages, tools), kwargs, add_generation_prompt, ())
        except ApiError:
            # Some templates take no system message.
            return self._render(in_plain_words(messages, tools, as_user=True), kwargs, add_generation_prompt, ())

    def _render(
        self,
        messages: Sequence[Message],
        kwargs: dict[str, Any] | None,
        add_generation_prompt: bool,
        tools: Sequence[dict[str, Any]],
    ) -> str:
        if self.raw:
            return _last_user(messages)
        if self.template is not None:
            if kwargs:
                raise invalid("chat_template_kwargs", f"The template '{self.template.name}' takes no parameters.")
            return self.template.render(_turns(messages), add_generation_prompt=add_generation_prompt)
        given = {**(kwargs or {}), **({"tools": list(tools)} if tools else {})}
        return self._render_own(messages, given, add_generation_prompt)

    def encode(self, text: str, *, specials: bool) -> list[int]:
        """Token ids; with `specials`, the tokenizer's BOS and the like are added, and no BOS is doubled."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=specials, verbose=False)
        if specials and len(ids) > 1 and self.bos_id is not None and ids[0] == ids[1] == self.bos_id:
            return ids[1:]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    async def chat_ids(
        self,
        messages: Sequence[Message],
        kwargs: dict[str, Any] | None = None,
        *,
        specials: bool | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The token ids of a chat's prompt."""
        return (
            await self.chat_prompt(messages, kwargs, specials=specials, add_generation_prompt=add_generation_prompt)
        )[1]

    async def chat_prompt(
        self,
        messages: Sequence[Message],
        kwargs: dict[str, Any] | None = None,
        *,
        specials: bool | None = None,
        add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] = (),
    ) -> tuple[str, list[int]]:
        """A chat's prompt as text and as token ids. There are no images in it."""
        wanted = self.specials_by_default if specials is None else specials

        def work() -> tuple[str, list[int]]:
            text = self.render(messages, kwargs, add_generation_prompt=add_generation_prompt, tools=tools)
            return text, self.encode(text, specials=wanted)

        size = sum(len(message.text) for message in messages)
        return await off_loop(work, size + LONG_TEXT // 8 * len(tools))

    async def text_ids(self, text: str, *, specials: bool = True) -> list[int]:
        return await off_loop(lambda: self.encode(text, specials=specials), len(text))

    def _render_own(self, messages: Sequence[Message], kwargs: dict[str, Any], add_generation_prompt: bool) -> str:
        shown = [self._as_dict(message) for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                shown, tokenize=False, add_generation_prompt=add_generation_prompt, **kwargs
            )
        except Exception as error:
            # A template is a program that came with the model: whatever it raises is about these messages.
            log.debug("the chat template failed", exc_info=True)
            reason = str(error) or type(error).__name__
            raise invalid("messages", f"The model's chat template cannot take these messages: {reason[:300]}") from None
        return str(text)

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        if isinstance(message.content, list) and message.images:
            return [
                {"type": "image"} if part.image_url is not None else {"type": "text", "text": part.text or ""}
                for part in message.content
            ]
        return [{"type": "text", "text": message.text}] if self._parts else message.text

    def _takes_texts(self) -> bool:
        """Whether a message that is a plain string is in what the template makes of it, or in no form at all."""
        return self._probe(_PROBE).count(_PROBE) > 0 or not self._probe([{"type": "text", "text": _PROBE}])

    def _find_image_mark(self) -> str:
        """What an image adds to a rendered message."""
        text = {"type": "text", "text": _PROBE}
        with_image, without = self._probe([{"type": "image"}, text]), self._probe([text])
        begin, _, _ = with_image.partition(_PROBE)
        if not begin or not without:
            return ""
        before = without.partition(_PROBE)[0]
        pairs = zip(begin, before, strict=False)
        same = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(begin), len(before)))
        return begin[same:].strip()

    def _probe(self, content: str | list[dict[str, str]]) -> str:
        """A message rendered by the tokenizer's own template; empty when it cannot be, or says nothing of it."""
        try:
            text = str(
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
                )
            )
        except Exception:
            log.debug("the chat template takes no such message", exc_info=True)
            return ""
        # A template that knows no parts writes the list itself.
        return text if _PROBE in text and "'type'" not in text and '"type"' not in text else ""

    def _as_dict(self, message: Message) -> dict[str, Any]:
        role = message.role
        if role == "developer" and "developer" not in self._source:
            role = "system"
        shown: dict[str, Any] = {"role": role, "content": self._content(message)}
        if message.name is not None:
            shown["name"] = message.name
        if message.tool_calls:
            shown["tool_calls"] = [
                {
                    "id": self.family.known_id(call.id),
                    "type": call.type,
                    "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            shown["tool_call_id"] = self.family.known_id(message.tool_call_id)
        if message.reasoning_content is not None:
            shown["reasoning_content"] = message.reasoning_content
        return shown


def choose_template(tokenizer: Any, folder: Path, asked: str, *, is_encoder_decoder: bool) -> ConvTemplate | None:
    """The named template to use: the one asked for, the one in config.json, or `zero_shot` for a model without any.

    None: the tokenizer's own, or none at all for an encoder-decoder model.

    Raises:
        UsageError: there is no template of that name.
    """
    if asked:
        return get_template(asked)
    if _template_source(tokenizer):
        return None
    named = _configured(folder)
    if named:
        return get_template(named)
    return None if is_encoder_decoder else get_template(DEFAULT)


async def off_loop(work: Callable[[], T], size: int) -> T:
    """Run `work` here when it is short, else in a thread."""
    return work() if size < LONG_TEXT else await asyncio.to_thread(work)


def _configured(folder: Path) -> str:
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("conv_template", "")
    except (OSError, ValueError, AttributeError):
        return ""
    if named and not isinstance(named, str):
        raise UsageError(f"'conv_template' in {folder / 'config.json'} must be a name.")
    return str(named)


def _template_source(tokenizer: Any) -> str:
    source = getattr(tokenizer, "chat_template", None)
    if isinstance(source, dict):
        return "\n".join(str(part) for part in source.values())
    return source if isinstance(source, str) else ""


def _last_user(messages: Sequence[Message]) -> str:
    for message in reversed(messages):
        if message.role == "user":
            return message.text
    raise invalid("messages", "'messages' must hold a user message: this model answers one text at a time.")


def _turns(messages: Sequence[Message]) -> list[Turn]:
    return [Turn("system" if message.role == "developer" else message.role, message.text) for message in messages]


def _arguments(text: str) -> Any:
    """Templates expect a call's arguments as an object; what is no JSON stays a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text
