"""The conversation template that FastChat's clients get, so that they render the prompt as the model's own does."""

from __future__ import annotations

from typing import Any

from daemon.worker.prompts import Prompter
from fcd.errors import ApiError
from fcd.templates import TEMPLATES, ConvTemplate, SepStyle, Turn
from fcd.wire.openai import Message

_USER, _ANSWER, _SYSTEM = "@@user-text@@", "@@assistant-text@@", "@@system-text@@"


def fastchat_conv(prompter: Prompter) -> dict[str, Any]:
    """FastChat's conv object: the named template in use, or what the tokenizer's own template amounts to."""
    if prompter.template is not None:
        return prompter.template.as_fastchat()
    found = None if prompter.raw else derive(prompter)
    return (found or TEMPLATES["raw"]).as_fastchat()


def derive(prompter: Prompter) -> ConvTemplate | None:
    """A FastChat template that renders as the tokenizer's own, found by rendering marked texts and checked on others.

    FastChat writes its system template even around an empty message. So the message's frame is kept where the model has
    a default message to fill it; elsewhere chats without a system message, the usual ones, are exact, and a system
    message stands without its frame.

    None: the tokenizer's template is not of that form (prefix, text, suffix for each role).
    """
    try:
        alone = _render(prompter, ("user", _USER))
        both = _render(prompter, ("user", _USER), ("assistant", _ANSWER), ("user", _USER))
        with_system = _render(prompter, ("system", _SYSTEM), ("user", _USER))
    except ApiError:
        return None
    bos = prompter.tokenizer.bos_token or ""
    alone, both, with_system = (text.removeprefix(bos) if bos else text for text in (alone, both, with_system))
    try:
        head, tail = alone.split(_USER)
        opened, second, _ = both.split(_USER)
        to_answer, to_user = second.split(_ANSWER)
        before_system, rest = with_system.split(_SYSTEM)
        after_system, _ = rest.split(_USER)
    except ValueError:
        return None
    user_tag = _common_suffix(head, _common_suffix(after_system, to_user))
    if opened != head or not to_answer.startswith(tail) or not to_user.endswith(user_tag):
        return None
    answer_tag = _split_tag(tail)
    if answer_tag is None:
        return None
    sep, tag = answer_tag
    default = head.removesuffix(user_tag)
    after_system = after_system.removesuffix(user_tag)
    wrapped = default.startswith(before_system) and default.endswith(after_system) and default != ""
    template = ConvTemplate(
        name="raw",
        style=SepStyle.NO_COLON_TWO,
        roles=(user_tag, tag),
        sep=sep,
        sep2=to_user.removesuffix(user_tag),
        system_template=f"{before_system}{{system_message}}{after_system}" if wrapped else "{system_message}",
        system_message=default[len(before_system) : len(default) - len(after_system)] if wrapped else "",
    )
    return template if (wrapped or default == "") and _agrees(prompter, template, bos) else None


def _agrees(prompter: Prompter, template: ConvTemplate, bos: str) -> bool:
    """Whether both render several turns of odd text the same."""
    turns = [("user", "a b?\nc"), ("assistant", "d: e"), ("user", "f")]
    try:
        own = _render(prompter, *turns)
    except ApiError:
        return False
    own = own.removeprefix(bos) if bos else own
    return template.render([Turn(role, text) for role, text in turns]) == own


def _render(prompter: Prompter, *turns: tuple[str, str]) -> str:
    return prompter.render([Message(role=role, content=text) for role, text in turns])  # type: ignore[arg-type]


def _common_suffix(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]


def _split_tag(tail: str) -> tuple[str, str] | None:
    """Where the user's end stops and the assistant's tag begins makes no difference to the text; take the line."""
    if not tail:
        return None
    cut = tail.find("\n") + 1
    return (tail[:cut], tail[cut:]) if 0 < cut < len(tail) else ("", tail)
