"""Makes the built-in models: `python -m fcd.builtin.train --out DIR`. Generator, tokenizer, training, report."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from fcd.builtin import NAMES
from fcd.builtin.evaluate import evaluate
from fcd.builtin.generator.base import plain
from fcd.builtin.generator.conversation import new_context, write_dialogue
from fcd.builtin.generator.refusal import load_open_prompts
from fcd.builtin.generator.words import word_pool
from fcd.builtin.recipe import SIZES, Size, model_config
from fcd.builtin.stream import Batch, Source, Stream
from fcd.builtin.tokenizer import END, PAD, save_tokenizer, train_tokenizer

_WARMUP = 200
_WEIGHT_DECAY = 0.05
_LOG_EVERY = 100
# Of the recipe's peak: what a model that is trained already takes without forgetting.
_LATER_RATE = 0.2
_KEEP_EVERY = 1500
"""Steps between the versions that are saved on the way, so that a run that is cut off leaves something."""


def build_source(
    open_prompts: Path | None, seed: int, scale: float, start: Path | None = None
) -> tuple[Source, list[str]]:
    """The tokenizer and everything else that shards are written from, and the open prompts kept unseen.

    `start` is the folder of a model whose tokenizer is used instead of a new one.
    """
    from tokenizers import Tokenizer

    prompts, unseen = load_open_prompts(open_prompts)
    words = word_pool(seed)
    if start is None:
        tokenizer = train_tokenizer(_tokenizer_texts(words, prompts, seed))
    else:
        tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
    pieces = sorted({piece.removeprefix("Ġ") for piece in tokenizer.get_vocab()})
    pieces = [piece for piece in pieces if piece.isascii() and piece.isalpha() and piece.islower()]
    return Source(tokenizer.to_str(), word_pool(seed, pieces=pieces), prompts, seed, scale), unseen


def _tokenizer_texts(words: Any, prompts: Any, seed: int) -> list[str]:
    """A sample of everything that the models read and write."""
    rng = Random(f"tokenizer:{seed}")
    texts = [*prompts, *(["system\n", "user\n", "assistant\n"] * 1000)]
    for _ in range(20_000):
        for turn in write_dialogue(new_context(rng, words, prompts)):
            texts += [plain(turn.question), turn.answer]
    return texts


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of `peak` as `progress` goes from 0 to 1."""
    warm = min(1.0, (step + 1) / _WARMUP)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def _optimizer(model: Any, peak: float, fused: bool) -> torch.optim.Optimizer:
    matrices = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), eps=1e-9, fused=fused)


def batch_loss(model: Any, body: Any, batch: Batch, device: torch.device) -> torch.Tensor:
    """Mean cross entropy (nats per token) of the tokens whose mask is set, given everything before them."""
    ids = torch.from_numpy(batch.ids.astype("int64")).to(device, non_blocking=True)
    chosen = torch.from_numpy(batch.mask[:, 1:].nonzero()[0] * (ids.shape[1] - 1) + batch.mask[:, 1:].nonzero()[1])
    chosen = chosen.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        hidden = body(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[chosen])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:].reshape(-1)[chosen])


def train_model(
    size: Size,
    source: Source,
    stream: Stream,
    device: torch.device,
    steps: int,
    seconds: float,
    compiled: bool,
    keep: Callable[[Any], None] = lambda model: None,
    start: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train one model for `steps` steps, or `seconds` seconds if those end first.

    It begins with the model in the folder `start`, at a smaller learning rate, or from scratch without one. `keep` gets
    the model now and then, and must leave it as it is.
    """
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    torch.manual_seed(source.seed)
    config = model_config(size, Tokenizer.from_str(source.tokenizer_json).get_vocab_size())
    if start is None:
        model = LlamaForCausalLM(config).to(device)
    else:
        model = LlamaForCausalLM.from_pretrained(str(start), dtype=torch.float32).to(device)
    peak = size.learning_rate * (1.0 if start is None else _LATER_RATE)
    body = torch.compile(model.model, dynamic=False) if compiled else model.model
    optimizer = _optimizer(model, peak, fused=device.type == "cuda")
    began = time.monotonic()
    step = tokens = 0
    recent = torch.zeros((), device=device)
    model.train()
    for step, batch in enumerate(stream):
        elapsed = time.monotonic() - began
        progress = max(step / steps, elapsed / seconds)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, progress)
        loss = batch_loss(model, body, batch, device)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += batch.ids.size
        recent += loss.detach()
        if (step + 1) % _LOG_EVERY == 0:
            mean = recent.item() / _LOG_EVERY
            recent.zero_()
            spent = time.monotonic() - began
            print(f"step {step + 1} loss {mean:.4f} {tokens / spent / 1e6:.2f} M tokens/s {spent:.0f} s", flush=True)
        if (step + 1) % _KEEP_EVERY == 0:
            keep(model)
    parameters = sum(p.numel() for p in model.parameters())
    facts = {"parameters": parameters, "steps": step, "tokens": tokens, "seconds": round(time.monotonic() - began)}
    return model, facts


@torch.no_grad()
def blend(model: Any, start: Path, share: float) -> None:
    """Move the weights of `model` to `share` of the way from those in the folder `start` to its own, in place.

    What was learnt later is kept, and less of the earlier is lost (Wortsman et al. 2022, arXiv 2109.01903).
    """
    from transformers import LlamaForCausalLM

    earlier = LlamaForCausalLM.from_pretrained(str(start), dtype=torch.float32).to(model.device)
    for new, old in zip(model.parameters(), earlier.parameters(), strict=True):
        new.lerp_(old, 1 - share)


def save_model(model: Any, source: Source, folder: Path) -> None:
    """Write the folder that fcd ships: bf16 weights, configurations, tokenizer with its template."""
    from tokenizers import Tokenizer
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=[END, PAD], pad_token_id=PAD, do_sample=False)
    model.save_pretrained(str(folder))
    save_tokenizer(Tokenizer.from_str(source.tokenizer_json), folder)


def keep_model(model: Any, source: Source, folder: Path) -> None:
    """Save a copy of a model that is still being trained; a run cut off meanwhile leaves the version before whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as written:
        save_model(copy.deepcopy(model), source, Path(written))
        for path in Path(written).iterdir():
            path.replace(folder / path.name)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fcd.builtin.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the models and the report")
    parser.add_argument("--open-prompts", type=Path, help="JSON lines with a `prompt` key: questions out of reach")
    parser.add_argument("--size", choices=NAMES, action="append", help="which model (default: all)")
    parser.add_argument("--start", type=Path, help="folder with trained models to go on from, each under its name")
    parser.add_argument("--blend", type=float, default=1.0, help="with --start: how much of the way to go from there")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="optimizer steps instead of the recipe's")
    parser.add_argument("--max-minutes", type=float, default=1e9, help="per model: anneal and stop by then")
    parser.add_argument("--shards", type=int, default=300, help="how much data is written before it repeats")
    parser.add_argument("--scale", type=float, default=1.0, help="batch size, as a share of the recipe's")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--questions", type=int, default=200, help="per skill in the report; 0: no evaluation")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    names = options.size or list(NAMES)
    # All sizes share one tokenizer, so any of the folders has it.
    started = options.start and options.start / names[0]
    source, unseen = build_source(options.open_prompts, options.seed, options.scale, started)
    print(f"tokenizer ready, {len(source.open_prompts)} open prompts, {len(unseen)} unseen", flush=True)
    stream = Stream(source, options.shards, options.processes)
    try:
        for name in names:
            folder = options.out / name
            size = SIZES[name]
            steps, seconds = options.steps or size.steps, options.max_minutes * 60
            keep = partial(keep_model, source=source, folder=folder)
            start = options.start and options.start / name
            model, facts = train_model(size, source, stream, device, steps, seconds, options.compile, keep, start)
            if start:
                blend(model, start, options.blend)
            save_model(model, source, folder)
            scores = evaluate(folder, options.seed, unseen, options.questions) if options.questions else {}
            report = {"model": name, "seed": options.seed, **facts, **scores}
            (options.out / f"{name}.report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    finally:
        stream.close()


if __name__ == "__main__":
    main()
