"""FastChat's conversation templates as its workers send them, rendered to the prompts that their models know.

The number of a separator style means one thing in release 0.2.36 and another in later code, which put a style in
between. So a style above 7 is found by the template's name, and only for names that nobody knows by its number, read as
the release that the object's own keys give away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fcd.templates import Turn

_FIRST_SEVEN = (
    "ADD_COLON_SINGLE",
    "ADD_COLON_TWO",
    "ADD_COLON_SPACE_SINGLE",
    "NO_COLON_SINGLE",
    "NO_COLON_TWO",
    "ADD_NEW_LINE_SINGLE",
    "LLAMA2",
)
_OLD = (
    *_FIRST_SEVEN,
    "CHATGLM",
    "CHATML",
    "CHATINTERN",
    "DOLLY",
    "RWKV",
    "PHOENIX",
    "ROBIN",
    "FALCON_CHAT",
    "CHATGLM3",
    "DEEPSEEK_CHAT",
    "METAMATH",
    "YUAN2",
)
"""Release 0.2.36, in order from 1."""
_NEW = (*_FIRST_SEVEN, "LLAMA3", *_OLD[7:], "GEMMA", "CLLM", "DEFAULT")
_NEW_KEYS = ("max_image_size_mb", "system_message_vision")
"""Keys that conversation objects have since the styles were renumbered."""

_BY_NAME = {
    name: style
    for style, names in {
        "LLAMA3": "llama-3",
        "CHATGLM": "chatglm chatglm2",
        "CHATML": "mpt-7b-chat mpt-30b-chat lemur-70b-chat starchat mistral-7b-openorca dolphin-2.2.1-mistral-7b"
        " OpenHermes-2.5-Mistral-7B Nous-Hermes-2-Mixtral-8x7B-DPO qwen-7b-chat Yi-34b-chat zephyr catppt TinyLlama"
        " orca-2 llava-chatml chatml",
        "CHATINTERN": "internlm-chat",
        "DOLLY": "dolly_v2 vigogne_instruct",
        "RWKV": "rwkv falcon",
        "PHOENIX": "phoenix ReaLM-7b-v1",
        "ROBIN": "Robin tigerbot",
        "FALCON_CHAT": "openchat_3.5 tenyxchat falcon-chat",
        "CHATGLM3": "chatglm3",
        "DEEPSEEK_CHAT": "deepseek-chat",
        "METAMATH": "metamath",
        "YUAN2": "yuan2",
        "GEMMA": "gemma",
        "CLLM": "cllm",
    }.items()
    for name in names.split()
}


class Conversation(msgspec.Struct, frozen=True):
    """What `/worker_get_conv_template` says of a model."""

    name: str
    style: str
    roles: tuple[str, str]
    sep: str = ""
    sep2: str = ""
    system_template: str = "{system_message}"
    system_message: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    """Few-shot turns that stand before the chat: role in the text, text."""
    stops: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The prompt for a chat, with the answer's turn opened. Several system messages are joined by a blank line."""
        given = "\n\n".join(turn.content for turn in turns if turn.role == "system")
        spoken = [(self.roles[turn.role == "assistant"], turn.content) for turn in turns if turn.role != "system"]
        message = given or self.system_message
        system = self.system_template.replace("{system_message}", message)
        parts: list[tuple[str, str | None]] = [*self.examples, *spoken, (self.roles[1], None)]
        return _STYLES[self.style](self, message, system, parts)


class UnknownTemplate(ValueError):
    """The worker's template cannot be rendered."""


def read_conversation(conv: Any) -> Conversation:
    """The worker's answer, read.

    Raises:
        UnknownTemplate: not a conversation object, or of a style that nobody here knows.
    """
    if not isinstance(conv, dict):
        raise UnknownTemplate("its conversation template is not an object")
    try:
        roles = [str(role) for role in conv["roles"]]
        return Conversation(
            name=str(conv["name"]),
            style=_style_of(conv),
            roles=(roles[0], roles[1]),
            sep=_text(conv.get("sep")),
            sep2=_text(conv.get("sep2")),
            system_template=_text(conv.get("system_template", "{system_message}")),
            system_message=_text(conv.get("system_message")),
            examples=tuple((str(role), str(text)) for role, text in conv.get("messages") or ()),
            stops=_stops(conv.get("stop_str")),
            stop_ids=tuple(int(token) for token in conv.get("stop_token_ids") or ()),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, UnknownTemplate):
            raise
        raise UnknownTemplate(f"its conversation template cannot be read ({error})") from None


def _style_of(conv: dict[str, Any]) -> str:
    number = int(conv["sep_style"])
    if 1 <= number <= len(_FIRST_SEVEN):
        return _FIRST_SEVEN[number - 1]
    known = _BY_NAME.get(str(conv["name"]))
    if known is not None:
        return known
    styles = _NEW if any(key in conv for key in _NEW_KEYS) else _OLD
    if not 1 <= number <= len(styles):
        raise UnknownTemplate(f"its conversation template '{conv['name']}' has the unknown style {number}")
    return styles[number - 1]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    return tuple(str(stop) for stop in stops if stop)


# One function per style: (conversation, system message, filled system template, turns) to the prompt.

_Parts = list[tuple[str, str | None]]
_Style = Callable[[Conversation, str, str, _Parts], str]


def _plain(
    before: Callable[[str], str],
    open_turn: Callable[[str], str],
    *,
    head: Callable[[Conversation, str, str], str],
    two: bool = False,
    end: str = "",
) -> _Style:
    """Styles of the form: head, then for each turn a tag, its text and a separator."""

    def render(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
        seps = (conv.sep, conv.sep2 if two else conv.sep)
        text = head(conv, message, system)
        for position, (role, said) in enumerate(parts):
            text += open_turn(role) if said is None else before(role) + said + seps[position % 2] + end
        return text

    return render


def _system_and_sep(conv: Conversation, message: str, system: str) -> str:
    return system + conv.sep


def _system_alone(conv: Conversation, message: str, system: str) -> str:
    return system


def _if_system(conv: Conversation, message: str, system: str) -> str:
    return system + conv.sep if system else ""


def _if_message(conv: Conversation, message: str, system: str) -> str:
    return system + conv.sep if message else ""


def _chatml_head(conv: Conversation, message: str, system: str) -> str:
    return f"{system}{conv.sep}\n" if system else ""


def _colon(role: str) -> str:
    return f"{role}:"


def _colon_space(role: str) -> str:
    return f"{role}: "


def _line(role: str) -> str:
    return f"{role}\n"


def _colon_line(role: str) -> str:
    return f"{role}:\n"


def _bare(role: str) -> str:
    return role


def _llama2(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    text = system if message else "[INST] "
    seps = (conv.sep, conv.sep2)
    for position, (_, said) in enumerate(parts):
        tag = conv.roles[position % 2]
        if said is None:
            text += tag
        else:
            text += f"{said} " if position == 0 else f"{tag} {said}{seps[position % 2]}"
    return text


def _llama3(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    text = "<|begin_of_text|>" + (system if message else "")
    for role, said in parts:
        text += f"<|start_header_id|>{role}<|end_header_id|>\n\n"
        text += "" if said is None else f"{said.strip()}<|eot_id|>"
    return text


def _chatglm(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    first = 1 if conv.name == "chatglm2" else 0
    text = system + conv.sep if system else ""
    for position, (role, said) in enumerate(parts):
        if position % 2 == 0:
            text += f"[Round {position // 2 + first}]{conv.sep}"
        text += f"{role}：" if said is None else f"{role}：{said}{conv.sep}"
    return text


def _chatglm3(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    turns = (role if said is None else f"{role}\n{said}" for role, said in parts)
    return (system if message else "") + "".join(turns)


def _intern(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    seps = (conv.sep, conv.sep2)
    text = system
    for position, (role, said) in enumerate(parts):
        text += "<s>" if position % 2 == 0 else ""
        text += f"{role}:" if said is None else f"{role}:{said}{seps[position % 2]}\n"
    return text


def _dolly(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    seps = (conv.sep, conv.sep2)
    text = system
    for position, (role, said) in enumerate(parts):
        text += f"{role}:\n"
        if said is not None:
            text += said + seps[position % 2] + ("\n\n" if position % 2 else "")
    return text


def _rwkv(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    text = system
    for role, said in parts:
        if said is None:
            text += f"{role}:"
        else:
            one_line_breaks = said.replace("\r\n", "\n").replace("\n\n", "\n")
            text += f"{role}: {one_line_breaks}\n\n"
    return text


def _phoenix(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    return system + "".join(f"{role}: <s>" + ("" if said is None else f"{said}</s>") for role, said in parts)


def _metamath(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    text = system + conv.sep if system else ""
    for position, (role, said) in enumerate(parts):
        text += f"{role}:\n" if position % 2 == 0 else f"{role}: {conv.sep2}"
        if said is not None:
            text += said + (conv.sep if position % 2 == 0 else "")
    return text


def _yuan2(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    text = (system + conv.sep2 if message else "") + "".join(f"{said}<n>" for _, said in parts if said is not None)
    # FastChat strips these characters, not the word; its models saw prompts made so.
    return text.rstrip("<n>") + conv.sep


def _gemma(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    turns = (f"<start_of_turn>{role}\n" + ("" if said is None else said + conv.sep) for role, said in parts)
    return "<bos>" + "".join(turns)


def _cllm(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    return _STYLES["ADD_COLON_TWO"](conv, message, system, parts[-2:])


def _default(conv: Conversation, message: str, system: str, parts: _Parts) -> str:
    turns = (f"{role}:" if said is None else f"{role}: {said}\n" for role, said in parts)
    return f"{system}\n" + "".join(turns)


_STYLES: dict[str, _Style] = {
    "ADD_COLON_SINGLE": _plain(_colon_space, _colon, head=_system_and_sep),
    "ADD_COLON_TWO": _plain(_colon_space, _colon, head=_system_and_sep, two=True),
    "ADD_COLON_SPACE_SINGLE": _plain(_colon_space, _colon_space, head=_system_and_sep),
    "NO_COLON_SINGLE": _plain(_bare, _bare, head=_system_alone),
    "NO_COLON_TWO": _plain(_bare, _bare, head=_system_alone, two=True),
    "ADD_NEW_LINE_SINGLE": _plain(_line, _line, head=_if_system),
    "LLAMA2": _llama2,
    "LLAMA3": _llama3,
    "CHATGLM": _chatglm,
    "CHATML": _plain(_line, _line, head=_chatml_head, end="\n"),
    "CHATINTERN": _intern,
    "DOLLY": _dolly,
    "RWKV": _rwkv,
    "PHOENIX": _phoenix,
    "ROBIN": _plain(_colon_line, _colon_line, head=_system_and_sep),
    "FALCON_CHAT": _plain(_colon_space, _colon, head=_if_message),
    "CHATGLM3": _chatglm3,
    "DEEPSEEK_CHAT": _plain(_colon_space, _colon, head=_system_alone, two=True),
    "METAMATH": _metamath,
    "YUAN2": _yuan2,
    "GEMMA": _gemma,
    "CLLM": _cllm,
    "DEFAULT": _default,
}
