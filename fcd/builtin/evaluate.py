"""Held-out scores per skill, by greedy decoding: phrasings, values and open prompts that were never trained on.

`python -m fcd.builtin.evaluate FOLDER` scores a model that is already there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import torch

from fcd.builtin.generator.base import Context, Turn, plain
from fcd.builtin.generator.checks import refuses
from fcd.builtin.generator.refusal import load_open_prompts
from fcd.builtin.generator.registry import SKILLS
from fcd.builtin.generator.words import word_pool

_BATCH: Final = 256
_MAX_NEW: Final = 220
_EXAMPLES: Final = 12
UNSEEN_VALUES: Final = ", unseen values"


@dataclass(frozen=True)
class Question:
    """A conversation whose last user message is to be answered, and the turn that says what is right."""

    skill: str
    messages: tuple[dict[str, str], ...]
    turn: Turn


def messages_of(turns: Sequence[Turn], system: str | None = None) -> tuple[dict[str, str], ...]:
    """Chat messages up to the last question; earlier answers are the generator's own."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns[:-1]:
        messages.append({"role": "user", "content": plain(turn.question)})
        messages.append({"role": "assistant", "content": plain(turn.answer)})
    return (*messages, {"role": "user", "content": plain(turns[-1].question)})


def questions(words: Sequence[str], unseen: Sequence[str], count: int) -> list[Question]:
    """`count` questions per skill in held-out phrasings, and unseen open prompts: all, or five times `count`.

    Where a skill holds values out too, it is asked a second time with those.
    """
    asked: list[Question] = []
    for skill in SKILLS:
        if not skill.phrasings:
            continue
        for fresh in (False, True) if skill.has_values else (False,):
            name = f"{skill.name}{UNSEEN_VALUES if fresh else ''}"
            rng = Random(f"evaluate:{name}")
            for _ in range(count):
                ctx = Context(rng, words, held_out=True, unseen_values=fresh, open_prompts=unseen)
                turns = skill.make(ctx)
                asked.append(Question(name, messages_of(turns, ctx.system), turns[-1]))
    for prompt in unseen[:: max(1, len(unseen) // (5 * count))]:
        turn = Turn(prompt, "", refuses)
        asked.append(Question("out of reach", messages_of([turn]), turn))
    return asked


def answer_all(model: Any, tokenizer: Any, asked: Sequence[Question]) -> list[str]:
    """Greedy replies, in the order of `asked`; batched by length."""
    texts = [
        tokenizer.apply_chat_template(list(question.messages), tokenize=False, add_generation_prompt=True)
        for question in asked
    ]
    order = sorted(range(len(asked)), key=lambda index: len(texts[index]))
    replies = [""] * len(asked)
    tokenizer.padding_side = "left"
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        inputs = tokenizer([texts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=_MAX_NEW, do_sample=False)
        written = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, written, strict=True):
            replies[index] = text
    return replies


def evaluate(folder: Path, seed: int, unseen: Sequence[str], count: int) -> dict[str, Any]:
    """Scores per skill (0 to 1), their mean, and wrong answers as examples, of the model saved in `folder`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    began = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    asked = questions(word_pool(seed), unseen, count)
    replies = answer_all(model, tokenizer, asked)
    right: dict[str, list[bool]] = {}
    wrong: dict[str, list[dict[str, str]]] = {}
    for question, reply in zip(asked, replies, strict=True):
        check = question.turn.check
        ok = check is not None and check(reply)
        right.setdefault(question.skill, []).append(ok)
        if not ok and len(wrong.setdefault(question.skill, [])) < _EXAMPLES:
            wrong[question.skill].append(
                {"asked": question.messages[-1]["content"], "got": reply, "example": plain(question.turn.answer)}
            )
    scores = {skill: round(sum(marks) / len(marks), 4) for skill, marks in right.items()}
    for skill, score in scores.items():
        print(f"{score:7.1%}  {skill} ({len(right[skill])})", flush=True)
    return {
        "scores": scores,
        "asked": {skill: len(marks) for skill, marks in right.items()},
        "mean": round(sum(scores.values()) / max(1, len(scores)), 4),
        "evaluation_seconds": round(time.monotonic() - began),
        "wrong": wrong,
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fcd.builtin.evaluate", description="Score a built-in model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--open-prompts", type=Path, help="the file that the model was trained with")
    parser.add_argument("--questions", type=int, default=200, help="per skill")
    parser.add_argument("--seed", type=int, default=1, help="the seed that it was trained with")
    parser.add_argument("--out", type=Path, help="write the report here")
    options = parser.parse_args(arguments)
    _, unseen = load_open_prompts(options.open_prompts)
    report = evaluate(options.folder, options.seed, unseen, options.questions)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
