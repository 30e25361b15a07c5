"""All skills in one place."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator import (
    arithmetic,
    capitals,
    casing,
    code,
    colours,
    counting,
    dates,
    facts,
    markdown,
    memory,
    opposites,
    persona,
    refusal,
    repeating,
    smalltalk,
    sorting,
    spelling,
    units,
)
from fcd.builtin.generator.base import Skill

_MODULES: Final = (
    smalltalk, persona, facts, arithmetic, counting, spelling, casing, sorting, opposites, colours, dates, capitals,
    units, repeating, markdown, code, memory, refusal,
)  # fmt: skip

SKILLS: Final[tuple[Skill, ...]] = tuple(skill for module in _MODULES for skill in module.SKILLS)
WEIGHTS: Final = tuple(skill.weight for skill in SKILLS)
