"""A few code snippets, from the table in `data/snippets.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import contains
from fcd.builtin.generator.wrap import loosen, wrap

_FILE: Final = Path(__file__).resolve().parent.parent / "data" / "snippets.toml"

FRAMES: Final = Phrasings(
    (
        "Write {t} in {l}.", "Show me {t} in {l}.", "{t} in {l}", "Give me {t} in {l}.", "Can you write {t} in {l}?",
        "{l}: {t}", "I need {t} in {l}.", "Write me {t} in {l}.", "{t}, in {l}",
        "What does {t} look like in {l}?", "Please write {t} in {l}.", "{t} with {l}", "In {l}, write {t}.",
        "How do I write {t} in {l}?", "{l} code for {t}", "Write {l} code: {t}",
    ),
    ("Could you write {t} in {l}?", "Please show me {t} in {l}.", "Can you show me {t} in {l}?",
     "I would like {t} in {l}.", "In {l}, show me {t}."),
)  # fmt: skip


@dataclass(frozen=True)
class Snippet:
    """Code in one language and what asks for it."""

    language: str
    code: str
    tasks: Phrasings

    @property
    def answer(self) -> str:
        """The fenced code block."""
        fence = {"curl": "bash"}.get(self.language, self.language.lower())
        return f"```{fence}\n{self.code}\n```"


@cache
def snippets() -> tuple[Snippet, ...]:
    """The whole table."""
    rows = tomllib.loads(_FILE.read_text(encoding="utf-8"))["snippet"]
    return tuple(
        Snippet(row["language"], row["code"].strip("\n"), Phrasings(tuple(row["tasks"]), tuple(row["tasks_held_out"])))
        for row in rows
    )


def make(ctx: Context) -> list[Turn]:
    """One snippet asked for by what it does and its language."""
    rng = ctx.rng
    snippet = rng.choice(snippets())
    frame = loosen(rng.choice(FRAMES.train + (FRAMES.held_out if ctx.held_out else ())), rng)
    language = snippet.language if rng.random() < 0.7 else snippet.language.lower()
    question = frame.format(t=snippet.tasks.pick(ctx), l=language)
    return [Turn(wrap(question, rng, share=0.15), snippet.answer, contains(snippet.code))]


SKILLS: Final = (Skill("code snippets", make, (FRAMES, *(s.tasks for s in snippets())), weight=1.5),)
