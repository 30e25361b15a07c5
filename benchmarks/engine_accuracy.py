"""What 8-bit weights cost a trained model: the built-in model's scores per skill, as it is and with --load-8bit.

    python -m benchmarks.engine_accuracy [--model guide] [--questions 60] [--open-prompts FILE]

Both get the same questions, which the model was not trained on, through the in-process engine, greedy, 32 at once.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemon.engines.base import Engine, GenerationRequest, LoadOptions, SamplingParams
from daemon.engines.transformers import load_engine
from fcd.builtin import builtin_path, evaluate
from fcd.builtin.generator.refusal import load_open_prompts
from fcd.builtin.generator.words import word_pool

AT_ONCE = 32
MOST_TOKENS = 220


async def replies(folder: Path, asked: Sequence[evaluate.Question], quantization: str) -> list[str]:
    engine = await load_engine(LoadOptions(path=str(folder), quantization=quantization), lambda *_: None)
    gate = asyncio.Semaphore(AT_ONCE)
    try:
        return await asyncio.gather(*(reply(engine, each, gate) for each in asked))
    finally:
        await engine.close()


async def reply(engine: Engine, question: evaluate.Question, gate: asyncio.Semaphore) -> str:
    tokenizer: Any = engine.tokenizer
    ids = tokenizer.apply_chat_template(list(question.messages), add_generation_prompt=True, return_dict=False)
    params = SamplingParams(max_tokens=MOST_TOKENS, temperature=0.0)
    text = ""
    async with gate:
        async for delta in engine.generate(GenerationRequest("score", ids, params)):
            text += delta.text
    return text


def scores(asked: Sequence[evaluate.Question], answers: Sequence[str]) -> dict[str, float]:
    """Per cent right for each skill."""
    right: dict[str, list[bool]] = {}
    for question, answer in zip(asked, answers, strict=True):
        check = question.turn.check
        right.setdefault(question.skill, []).append(check is not None and check(answer))
    return {skill: 100 * sum(marks) / len(marks) for skill, marks in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="guide", choices=("guide", "guide-mini"))
    parser.add_argument("--questions", type=int, default=60, help="per skill")
    parser.add_argument("--open-prompts", type=Path, help="the file that the model was trained with")
    args = parser.parse_args()
    folder = builtin_path(args.model)
    _, unseen = load_open_prompts(args.open_prompts)
    asked = evaluate.questions(word_pool(1), unseen, args.questions)
    found = {form: asyncio.run(replies(folder, asked, form)) for form in ("", "8bit")}
    plain, bits = scores(asked, found[""]), scores(asked, found["8bit"])
    print(f"{'skill':44} plain   8-bit   ({len(asked)} questions)")
    for skill, score in plain.items():
        print(f"{skill:44} {score:5.1f}   {bits[skill]:5.1f}   {bits[skill] - score:+.1f}")
    mean, other = (sum(each.values()) / len(each) for each in (plain, bits))
    same = sum(a == b for a, b in zip(found[""], found["8bit"], strict=True))
    print(f"{'mean':44} {mean:5.1f}   {other:5.1f}   {other - mean:+.1f}; equal answers: {same / len(asked):.1%}")


if __name__ == "__main__":
    main()
