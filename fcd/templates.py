"""Named conversation templates, for models whose tokenizer brings none.

The formats are FastChat's, so that models tuned with it see what they were trained on. `--conv-template NAME` chooses
one, or `"conv_template": "NAME"` in the model's own config.json; the folder's name plays no part. A model that has
neither a chat template nor such an entry is a base model: it gets `zero_shot`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec

from fcd.errors import UsageError

DEFAULT: Final = "zero_shot"


class SepStyle(IntEnum):
    """FastChat's numbers, of which 1 to 7 mean the same in all of its releases."""

    ADD_COLON_SINGLE = 1
    ADD_COLON_TWO = 2
    NO_COLON_SINGLE = 4
    NO_COLON_TWO = 5
    LLAMA2 = 7
    CHATML = 10


class Turn(msgspec.Struct, frozen=True):
    role: str
    """`system`, `user` or `assistant`."""
    content: str


class ConvTemplate(msgspec.Struct, frozen=True):
    """How a list of turns becomes a prompt. `roles` are the names of user and assistant in the text."""

    name: str
    style: SepStyle
    roles: tuple[str, str]
    sep: str
    sep2: str = ""
    system_template: str = "{system_message}"
    system_message: str = ""
    stop: tuple[str, ...] = ()

    def render(self, turns: Sequence[Turn], *, add_generation_prompt: bool = True) -> str:
        """The prompt. Several system turns are joined by a blank line and replace the template's own message."""
        system = "\n\n".join(turn.content for turn in turns if turn.role == "system") or self.system_message
        spoken = [turn for turn in turns if turn.role != "system"]
        text = self._head(system)
        for position, turn in enumerate(spoken):
            text += self._turn(turn, first=position == 0)
        return text + self._open() if add_generation_prompt else text

    def _head(self, system: str) -> str:
        filled = self.system_template.replace("{system_message}", system)
        match self.style:
            case SepStyle.LLAMA2:
                return filled if system else "[INST] "
            case SepStyle.CHATML:
                return f"{filled}{self.sep}\n" if system else ""
            case SepStyle.ADD_COLON_SINGLE | SepStyle.ADD_COLON_TWO:
                return filled + self.sep
        return filled

    def _turn(self, turn: Turn, *, first: bool) -> str:
        speaks = turn.role == "assistant"
        tag, end = self.roles[speaks], self.sep2 if speaks and self.sep2 else self.sep
        match self.style:
            case SepStyle.LLAMA2:
                return f"{turn.content} " if first else f"{tag} {turn.content}{end}"
            case SepStyle.CHATML:
                return f"{tag}\n{turn.content}{self.sep}\n"
            case SepStyle.ADD_COLON_SINGLE | SepStyle.ADD_COLON_TWO:
                return f"{tag}: {turn.content}{end}"
        return f"{tag}{turn.content}{end}"

    def _open(self) -> str:
        tag = self.roles[1]
        match self.style:
            case SepStyle.CHATML:
                return f"{tag}\n"
            case SepStyle.ADD_COLON_SINGLE | SepStyle.ADD_COLON_TWO:
                return f"{tag}:"
        return tag

    def as_fastchat(self) -> dict[str, Any]:
        """The object that FastChat's /worker_get_conv_template answers."""
        return {
            "name": self.name,
            "system_template": self.system_template,
            "system_message": self.system_message,
            "system_message_vision": "",
            "roles": list(self.roles),
            "messages": [],
            "offset": 0,
            "sep_style": int(self.style),
            "sep": self.sep,
            "sep2": self.sep2 or None,
            "stop_str": (list(self.stop) if len(self.stop) > 1 else self.stop[0]) if self.stop else None,
            "stop_token_ids": None,
            "max_image_size_mb": None,
        }


_ASSISTANT = (
    "A chat between a curious {} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
)

TEMPLATES: Final[dict[str, ConvTemplate]] = {
    template.name: template
    for template in (
        ConvTemplate(
            name="vicuna_v1.1",
            style=SepStyle.ADD_COLON_TWO,
            roles=("USER", "ASSISTANT"),
            sep=" ",
            sep2="</s>",
            system_message=_ASSISTANT.format("user", "user"),
        ),
        ConvTemplate(
            name="llama-2",
            style=SepStyle.LLAMA2,
            roles=("[INST]", "[/INST]"),
            sep=" ",
            sep2=" </s><s>",
            system_template="[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
        ),
        ConvTemplate(
            name="chatml",
            style=SepStyle.CHATML,
            roles=("<|im_start|>user", "<|im_start|>assistant"),
            sep="<|im_end|>",
            system_template="<|im_start|>system\n{system_message}",
            stop=("<|im_end|>",),
        ),
        ConvTemplate(
            name="zero_shot",
            style=SepStyle.ADD_COLON_SINGLE,
            roles=("Human", "Assistant"),
            sep="\n### ",
            system_message=_ASSISTANT.format("human", "human"),
            stop=("###",),
        ),
        ConvTemplate(name="raw", style=SepStyle.NO_COLON_SINGLE, roles=("", ""), sep=""),
    )
}


def get_template(name: str) -> ConvTemplate:
    """The template of that name.

    Raises:
        UsageError: there is none; the message names those that exist.
    """
    found = TEMPLATES.get(name)
    if found is None:
        near = difflib.get_close_matches(name, list(TEMPLATES), n=1)
        raise UsageError(
            f"There is no conversation template '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""),
            hint=f"There are: {', '.join(TEMPLATES)}.",
        )
    return found
