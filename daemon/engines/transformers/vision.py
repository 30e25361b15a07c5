"""The runner for models that see images: prompts with images one by one, all others as the model's text runner does.

A prompt with images is computed whole by the model's own code, as `generate` would: families differ too much in what an
image is to them (blocks of features, tiles, positions of two dimensions, tokens that see each other) for one packed
form. Its keys and values are in a cache of its own, which the row pool accounts for.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from daemon.engines.transformers.core import Runner
from daemon.engines.transformers.scheduler import Plan, Work
from daemon.engines.transformers.threads import ThreadPlan
from fcd.errors import ApiError

log = logging.getLogger("fcd.engine")


class VisionRunner:
    """Runs plans of both kinds of sequences.

    Args:
        text: the runner for sequences without images.
        threads: how many threads a prompt gets; None leaves them as they are.
    """

    def __init__(self, model: Any, text: Runner, threads: ThreadPlan | None = None) -> None:
        self._model = model
        self._text = text
        self._threads = threads
        self._device = model.get_input_embeddings().weight.device
        self._accepted = frozenset(inspect.signature(model.forward).parameters)
        self._dtype = _dtype_of_eyes(model)
        self._switch = AttentionSwitch(model)
        self._turning = [module for module in model.modules() if hasattr(module, "rope_deltas")]
        """Modules that remember how far positions are behind tokens, of the sequence that they saw last."""

    @torch.inference_mode()
    def forward(self, plan: Plan) -> tuple[torch.Tensor, list[Work]]:
        """Compute a plan's tokens; see PackedRunner.forward."""
        alone = [work for work in (*plan.decode, *plan.prefill) if work.sequence.alone]
        if not alone:
            return self._text.forward(plan)
        rest = Plan(
            [work for work in plan.decode if not work.sequence.alone],
            [work for work in plan.prefill if not work.sequence.alone],
        )
        rows: list[torch.Tensor] = []
        owners: list[Work] = []
        if rest.decode or rest.prefill:
            logits, owners = self._text.forward(rest)
            rows.append(logits)
        with self._switch.own():
            for work in alone:
                try:
                    rows.append(self._compute(work))
                except Exception as error:
                    if work.start:
                        raise
                    work.sequence.owner.failure = _failure(error)
                    continue
                owners.append(work)
                assert work.sequence.row is not None
                work.sequence.row.length = work.start + work.count
        if not rows:
            return torch.empty(0, 0), owners
        return torch.cat([each.to(rows[-1].device) for each in rows]), owners

    def memory_bytes(self) -> int:
        return self._text.memory_bytes()

    def _compute(self, work: Work) -> torch.Tensor:
        """Logits of the work's last token, `[1, vocab]`."""
        sequence, end = work.sequence, work.start + work.count
        if self._threads is not None:
            torch.set_num_threads(self._threads.threads(work.count))
        ids = torch.tensor([sequence.ids[:end]], device=self._device)
        first = work.start == 0
        kept = self._begin(work, ids) if first else sequence.encoder
        for module, deltas in zip(self._turning, kept.pop("deltas"), strict=True):
            module.rope_deltas = deltas
        inputs = self._model.prepare_inputs_for_generation(
            ids, next_sequence_length=work.count, is_first_iteration=first, **kept
        )
        output = self._model(**inputs, return_dict=True)
        sequence.encoder = self._model._update_model_kwargs_for_generation(output, kept)
        sequence.encoder["deltas"] = [module.rope_deltas for module in self._turning]
        for module in self._turning:
            module.rope_deltas = None
        logits: torch.Tensor = output.logits[0, -1:]
        return logits

    def _begin(self, work: Work, ids: torch.Tensor) -> dict[str, Any]:
        """What `generate` would hand from step to step: the images' tensors, the cache, the positions."""
        from transformers import DynamicCache

        images = work.sequence.owner.request.images
        assert images is not None
        kept = self._fitted(images.tensors, len(images.ids), work.count)
        kept["past_key_values"] = DynamicCache(config=self._model.config)
        for module in self._turning:
            module.rope_deltas = None
        if "position_ids" in self._accepted:
            kept["position_ids"] = self._model._prepare_position_ids_for_generation(ids, kept)
        if "logits_to_keep" in self._accepted:
            kept["logits_to_keep"] = 1
        kept["use_cache"] = True
        kept["deltas"] = [module.rope_deltas for module in self._turning]
        return kept

    def _fitted(self, tensors: Mapping[str, Any], prompt: int, length: int) -> dict[str, Any]:
        """The tensors on the model's device, in its number format. A sequence that begins again has generated tokens
        behind its prompt, which are text."""
        kept: dict[str, Any] = {}
        for name, value in tensors.items():
            if isinstance(value, torch.Tensor):
                value = value.to(self._device)
                if value.is_floating_point():
                    value = value.to(self._dtype)
                if value.shape == (1, prompt) and length > prompt:
                    rest = value.new_full((1, length - prompt), int(name == "attention_mask"))
                    value = torch.cat([value, rest], 1)
            kept[name] = value
        return kept


class AttentionSwitch:
    """A model's own attention in the place of ours, for as long as a prompt with images is computed.

    Args:
        model: a loaded model; what it computes attention with now is what it comes back to.
    """

    def __init__(self, model: Any) -> None:
        configs = _configs(model)
        before = [config._attn_implementation_internal for config in configs]
        try:
            model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
        except (ValueError, ImportError):
            model.set_attn_implementation("eager")
        own = [config._attn_implementation_internal for config in configs]
        self._pairs = list(zip(configs, before, own, strict=True))
        self._set(own=False)

    @contextmanager
    def own(self) -> Iterator[None]:
        """The model's own attention."""
        self._set(own=True)
        try:
            yield
        finally:
            self._set(own=False)

    def _set(self, *, own: bool) -> None:
        for config, before, after in self._pairs:
            config._attn_implementation_internal = after if own else before


def _failure(error: Exception) -> ApiError:
    """What a request is told whose images the model's own code could not take: the others go on."""
    log.warning("a prompt with images could not be computed", exc_info=error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ApiError(
            503,
            "These images do not fit into memory beside what runs: send fewer, or smaller.",
            code="image_failed",
        )
    reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return ApiError(500, f"The model could not compute these images: {reason[:300]}", code="image_failed")


def _dtype_of_eyes(model: Any) -> torch.dtype:
    """What the part that sees computes in: weights of the rest may be packed."""
    for name, parameter in model.named_parameters():
        sees = any(part.startswith(("vision", "visual")) for part in name.split("."))
        if sees and parameter.is_floating_point():
            return parameter.dtype  # type: ignore[no-any-return]
    return model.dtype  # type: ignore[no-any-return]


def _configs(model: Any) -> list[Any]:
    """Every configuration that some part of the model reads, once."""
    found = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    for config in list(found.values()):
        for name in getattr(config, "sub_configs", None) or ():
            part = getattr(config, name, None)
            if part is not None:
                found.setdefault(id(part), part)
    return [config for config in found.values() if hasattr(config, "_attn_implementation_internal")]
