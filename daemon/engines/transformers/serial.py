"""The runner for decoders that do not fit the packed form (state-space, hybrid): a cache for each sequence.

It is right for whatever transformers can generate with, and no faster than one request after another. A prompt is
computed whole, for not every state can be continued by more than one token.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from daemon.engines.transformers.packed import wants_prompt_logprobs
from daemon.engines.transformers.scheduler import Plan, Work
from daemon.engines.transformers.sequence import Sequence


class SerialRunner:
    """Runs the works of a plan one after another."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        self._accepted = frozenset(inspect.signature(model.forward).parameters)
        # A state-space model reads the mask as padding of the tokens at hand, so it gets none.
        self._attends = "cache_params" not in self._accepted
        self._caches: dict[Sequence, Any] = {}

    @torch.inference_mode()
    def forward(self, plan: Plan) -> tuple[torch.Tensor, list[Work]]:
        """Compute a plan's tokens; see PackedRunner.forward."""
        works = [*plan.decode, *plan.prefill]
        running = {work.sequence for work in works}
        self._caches = {sequence: cache for sequence, cache in self._caches.items() if sequence in running}
        logits: list[torch.Tensor] = []
        owners: list[Work] = []
        for work in works:
            rows = self._compute(work)
            if wants_prompt_logprobs(work):
                logits.append(rows)
                owners.append(work)
            elif work.last:
                logits.append(rows[-1:])
                owners.append(work)
            assert work.sequence.row is not None
            work.sequence.row.length = work.start + work.count
        return torch.cat(logits) if logits else torch.empty(0, 0), owners

    def memory_bytes(self) -> int:
        return 0

    def _compute(self, work: Work) -> torch.Tensor:
        """Logits of a work's tokens, `[count, vocab]`; of the last alone where that is all that is wanted."""
        from transformers import DynamicCache

        sequence = work.sequence
        if work.start == 0:
            self._caches[sequence] = DynamicCache(config=self._model.config)
        end = work.start + work.count
        offered = {
            "past_key_values": self._caches[sequence],
            "cache_params": self._caches[sequence],
            "position_ids": torch.arange(work.start, end, device=self._device)[None],
            "attention_mask": torch.ones(1, end, dtype=torch.long, device=self._device),
            "logits_to_keep": 0 if wants_prompt_logprobs(work) else 1,
        }
        if not self._attends:
            del offered["attention_mask"]
        ids = torch.tensor([sequence.ids[work.start : end]], device=self._device)
        taken = {name: value for name, value in offered.items() if name in self._accepted}
        logits: torch.Tensor = self._model(input_ids=ids, use_cache=True, return_dict=True, **taken).logits[0]
        return logits
