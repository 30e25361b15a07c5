"""Keeps training clear of what is held out: no question is trained on that reads like a held-out template."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from fcd.builtin.generator import facts
from fcd.builtin.generator.base import normalized
from fcd.builtin.generator.registry import SKILLS

_WIDE: Final = frozenset("tkcx")


def _pattern(template: str) -> str:
    parts = re.split(r"(\{\w+\})", normalized(template))
    return "".join(_value(part) if part.startswith("{") else re.escape(part) for part in parts)


def _value(field: str) -> str:
    return r".+" if field[1] in _WIDE else r"\S+"


@cache
def _patterns() -> re.Pattern[str]:
    """Every held-out template as one expression; frames that only hold a held-out task are left to the tasks."""
    frames = {facts.TASK_FRAMES, *(fact.tasks for fact in facts.all_facts())}
    templates = {
        template
        for skill in SKILLS
        for phrasings in skill.phrasings
        if phrasings not in frames and skill.name != "code snippets"
        for template in phrasings.held_out
    }
    return re.compile("|".join(sorted(_pattern(template) for template in templates)))


def is_kept_out(question: str) -> bool:
    """Whether `question`, case and punctuation aside, is a held-out template with some values in it."""
    return _patterns().fullmatch(normalized(question)) is not None
