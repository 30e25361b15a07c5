"""Questions about fcd, from the table of facts in `data/facts.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import contains
from fcd.builtin.generator.wrap import loosen, wrap
from fcd.cli.table import COMMANDS

_FILE: Final = Path(__file__).resolve().parent.parent / "data" / "facts.toml"

TASK_FRAMES: Final = Phrasings(
    (
        "How do I {t}?", "How can I {t}?", "How to {t}?", "how to {t}", "What is the command to {t}?",
        "Which command do I need to {t}?", "I want to {t}.",
        "How do I {t} with fcd?", "Can I {t}?", "How would I {t}?", "What do I type to {t}?", "Tell me how to {t}.",
        "command to {t}", "Is it possible to {t}?",
        "I would like to {t}. How?", "Show me how to {t}.", "Which command lets me {t}?", "How can I {t} in fcd?",
        "I need to {t}.", "Explain how to {t}.",
        "How does one {t}?", "{t}", "How do you {t}?", "Is there a way to {t}?", "Does fcd let me {t}?",
        "How should I {t}?", "fcd: how to {t}?",
    ),
    (
        "What should I do to {t}?", "Can you tell me how to {t}?", "What command do I use to {t}?",
        "I'd like to {t}.", "Please show me how to {t}.",
        "What is the way to {t}?",
    ),
)  # fmt: skip
COMMAND_FRAMES: Final = Phrasings(
    (
        "What does `fcd {c}` do?", "What does fcd {c} do?", "What is fcd {c}?", "What is `fcd {c}`?", "fcd {c}",
        "`fcd {c}`", "Explain fcd {c}.", "Explain `fcd {c}`.",
        "What is fcd {c} for?", "What is the {c} command?", "How does fcd {c} work?", "Tell me about fcd {c}.",
        "When do I use fcd {c}?", "What happens with fcd {c}?",
        "what does {c} do", "Describe fcd {c}.", "fcd {c}?", "How do I use fcd {c}?", "What does the {c} command do?",
        "Help with fcd {c}", "what's fcd {c}",
        "What happens when I type fcd {c}?", "How is `fcd {c}` used?",
    ),
    (
        "What is the command fcd {c} for?", "Can you explain fcd {c}?", "What does the command `fcd {c}` do?",
        "Tell me what fcd {c} does.", "Why would I use fcd {c}?",
        "What is the {c} command for?",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One answer about fcd and everything that asks for it."""

    id: str
    answer: str
    must: tuple[str, ...]
    tasks: Phrasings
    questions: Phrasings
    command: str | None = None


def commands_in(text: str) -> set[str]:
    """The commands of fcd that `text` names in backticks or pipes: the word after `fcd`."""
    return set(re.findall(r"[`|] ?(?:fcd) ([a-z]+)", text))


def _fact(row: dict[str, object]) -> Fact:
    def texts(key: str) -> tuple[str, ...]:
        value = row.get(key, [])
        assert isinstance(value, list)
        return tuple(str(item) for item in value)

    command = row.get("command")
    return Fact(
        id=str(row["id"]),
        answer=str(row["answer"]),
        must=texts("must"),
        tasks=Phrasings(texts("tasks"), texts("tasks_held_out")),
        questions=Phrasings(texts("questions"), texts("questions_held_out")),
        command=None if command is None else str(command),
    )


@cache
def all_facts() -> tuple[Fact, ...]:
    """The whole table, also what is left out of training."""
    return tuple(_fact(row) for row in tomllib.loads(_FILE.read_text(encoding="utf-8"))["fact"])


@cache
def facts() -> tuple[Fact, ...]:
    """The facts whose commands the command line has."""
    return tuple(fact for fact in all_facts() if commands_in(fact.answer) <= COMMANDS.keys())


def make(ctx: Context) -> list[Turn]:
    """One question about fcd."""
    rng = ctx.rng
    fact = rng.choice(facts())
    kinds = [kind for kind, has in (("task", fact.tasks.train), ("question", fact.questions.train)) if has]
    if fact.command:
        kinds.append("command")
    kind = rng.choice(kinds)
    if kind == "command":
        question = loosen(COMMAND_FRAMES.pick(ctx), rng, share=0.2).format(c=fact.command)
    elif kind == "question":
        question = loosen(fact.questions.pick(ctx), rng)
    else:
        frame = rng.choice(TASK_FRAMES.train + (TASK_FRAMES.held_out if ctx.held_out else ()))
        task = fact.tasks.pick(ctx)
        question = loosen(frame, rng, share=0.2).format(t=task if rng.random() < 0.9 else loosen(task, rng, 1.0))
    return [Turn(wrap(question, rng, share=0.15), fact.answer, contains(*fact.must))]


def _all_phrasings() -> tuple[Phrasings, ...]:
    own = tuple(p for fact in all_facts() for p in (fact.tasks, fact.questions) if p.train)
    return (*own, TASK_FRAMES, COMMAND_FRAMES)


SKILLS: Final = (Skill("about fcd", make, _all_phrasings(), weight=7.0),)
