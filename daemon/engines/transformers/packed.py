"""The runner for decoder-only models: one packed forward per step through the model's own code."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch

from daemon.engines.transformers.arena import ArenaStore
from daemon.engines.transformers.attention import NAME, AttentionKind, DecodeGroup, PrefillChunk, Step, running
from daemon.engines.transformers.cuda_graphs import DecodeGraphs
from daemon.engines.transformers.flash_rows import Stretch, describe
from daemon.engines.transformers.kernels.attending import DecodeAttention
from daemon.engines.transformers.kv_store import KvStore, LayerSpec
from daemon.engines.transformers.lean import LeanDecoder, deviation
from daemon.engines.transformers.lora import Adapters, LoraBatch, applied
from daemon.engines.transformers.lowbit import Int8Linear
from daemon.engines.transformers.rows import RowPool
from daemon.engines.transformers.scheduler import Plan, Work
from daemon.engines.transformers.sequence import Sequence
from daemon.engines.transformers.stepping import DecoderStep
from daemon.engines.transformers.threads import ThreadPlan

LONG = 0.3
"""Seconds: a step that takes longer is timed once."""


class PackedRunner:
    """Runs plans through a causal model whose attention is ours.

    Args:
        model: a transformers causal language model loaded with our attention implementation.
        pool: whose rows the plans refer to.
        layers: what each attention layer stores (see `probe_layers`).
        lean: the model's lean form, where it has one.
        threads: how many threads a step gets; None leaves them as they are.
        adapters: those that sequences may name.
        flash: attend over rows where they lie (see `flash_usable`).
        kernel: what rows that decode attend by on a CPU.
        stepper: what computes whole steps of rows that decode, where there is one for the model.
    """

    def __init__(
        self,
        model: Any,
        pool: RowPool,
        layers: list[LayerSpec],
        lean: LeanDecoder | None = None,
        threads: ThreadPlan | None = None,
        adapters: Adapters | None = None,
        *,
        flash: bool = False,
        kernel: DecodeAttention | None = None,
        stepper: DecoderStep | None = None,
    ) -> None:
        self._adapters = adapters
        self._stepper = stepper
        self._kernel = kernel
        self.threads = threads
        self._model = model
        self._lean = lean
        self._pool = pool
        self._device = model.get_input_embeddings().weight.device
        self._spread = len({layer.device for layer in layers}) > 1
        self.store: KvStore | ArenaStore = ArenaStore(layers, pool) if flash else KvStore(layers, pool)
        self.graphs: DecodeGraphs | None = None
        """Decode steps as CUDA graphs, where the device and the model allow it."""

    @torch.inference_mode()
    def forward(self, plan: Plan) -> tuple[torch.Tensor, list[Work]]:
        """Compute a plan's tokens.

        Returns:
            Logits `[rows, vocab]`, and the work that each stretch of rows belongs to, in order: one row for work that
            ends with a sequence's newest token, `count` rows for a chunk whose prompt log-probabilities are wanted,
            none for any other chunk.
        """
        self.store.apply(self._pool.drain())
        if not plan.prefill:
            sequences = [work.sequence for work in plan.decode]
            logits = self._replay(sequences, [work.start for work in plan.decode], None)
            if logits is not None:
                return logits, plan.decode
        plain = [work for work in plan.decode if not work.sequence.adapter] if self._stepper is not None else []
        if self._stepper is None or not plain:
            return self._packed(plan)
        # By themselves, so that they get the same bits whatever is computed beside them.
        decoded = self._decode(self._stepper, plain)
        rest = Plan([work for work in plan.decode if work.sequence.adapter], plan.prefill)
        if not rest.decode and not rest.prefill:
            return decoded, plain
        logits, owners = self._packed(rest)
        return torch.cat([decoded, logits]), [*plain, *owners]

    def _decode(self, stepper: DecoderStep, works: list[Work]) -> torch.Tensor:
        """Logits of rows that decode, by the compiled step."""
        if self.threads is not None:
            self.threads.begin(len(works))
        assert isinstance(self.store, KvStore)
        ids = torch.tensor([work.sequence.ids[work.start] for work in works])
        logits = stepper.logits(ids, _groups(works), self.store)
        _note_lengths(works)
        return logits

    def _packed(self, plan: Plan) -> tuple[torch.Tensor, list[Work]]:
        """See `forward`: all of a plan's tokens as one batch of operators."""
        ids: list[int] = []
        positions: list[int] = []
        keep: list[int] = []
        owners: list[Work] = []
        for work in (*plan.decode, *plan.prefill):
            first, end = len(ids), work.start + work.count
            if work.count == 1:
                ids.append(work.sequence.ids[work.start])
                positions.append(work.start)
            else:
                ids.extend(work.sequence.ids[work.start : end])
                positions.extend(range(work.start, end))
            if wants_prompt_logprobs(work):
                keep.extend(range(first, len(ids)))
                owners.append(work)
            elif work.last:
                keep.append(len(ids) - 1)
                owners.append(work)
        step = self._step(plan)
        with applied(self._lora_batch(plan, keep)):
            logits = self._run(step, ids, positions, keep)
        _note_lengths((*plan.decode, *plan.prefill))
        return logits, owners

    @torch.inference_mode()
    def decode_ahead(self, sequences: list[Sequence], tokens: torch.Tensor) -> torch.Tensor | None:
        """Logits of the step behind one whose tokens are known to the device only; None when that cannot be.

        Args:
            tokens: `[rows]`, the newest token of each sequence, which its ids lack yet.
        """
        self.store.apply(self._pool.drain())
        return self._replay(sequences, [len(sequence.ids) for sequence in sequences], tokens)

    @torch.inference_mode()
    def make_graphs(self, most_rows: int) -> bool:
        """Let decode steps of up to so many rows run as CUDA graphs; False where that cannot be."""
        if self._lean is None or self._lean.waits or self._spread or not isinstance(self.store, ArenaStore):
            return False
        self.graphs = DecodeGraphs(self._lean, self.store, self.store.keys[0].device, most_rows=most_rows)
        return True

    def memory_bytes(self) -> int:
        return self.store.allocated_bytes() + (self.graphs.bytes if self.graphs is not None else 0)

    def _replay(
        self, sequences: list[Sequence], positions: list[int], tokens: torch.Tensor | None
    ) -> torch.Tensor | None:
        """One new token of each sequence through a graph; None when there is none for this batch."""
        graphs, store = self.graphs, self.store
        if graphs is None or not isinstance(store, ArenaStore) or any(s.adapter for s in sequences):
            return None
        rows = [sequence.row for sequence in sequences if sequence.row is not None]
        assert len(rows) == len(sequences)
        if tokens is None:
            ids = [s.ids[position] for s, position in zip(sequences, positions, strict=True)]
        else:
            ids = [0] * len(rows)
        logits = graphs.logits(ids, positions, [store.start(row.size_class, row.slot) for row in rows], tokens)
        if logits is not None:
            for row, position in zip(rows, positions, strict=True):
                row.length = position + 1
        return logits

    def _step(self, plan: Plan) -> Step:
        store = self.store
        if isinstance(store, KvStore):
            return Step(_groups(plan.decode), _chunks(plan), store, kernel=self._kernel)
        stretches: list[Stretch] = []
        for work in (*plan.decode, *plan.prefill):
            row = work.sequence.row
            assert row is not None
            stretches.append(Stretch(store.start(row.size_class, row.slot), work.start, work.count))
        return Step([], [], None, flash=(store, describe(stretches)))

    def _lora_batch(self, plan: Plan, keep: list[int]) -> LoraBatch | None:
        """The adapters of a plan's tokens; None when it uses none."""
        if self._adapters is None:
            return None
        users = [(work.sequence.adapter, work.count) for work in (*plan.decode, *plan.prefill)]
        return self._adapters.batch(users, None if self._spread else keep or [0])

    def _run(self, step: Step, ids: list[int], positions: list[int], keep: list[int]) -> torch.Tensor:
        if self.threads is not None:
            self.threads.begin(len(ids))
        packed = torch.tensor([ids, positions], device=self._device)
        # At least one row of logits is computed: models do not expect none.
        rows = torch.tensor(keep or [0], device=self._device)
        if self._lean is not None:
            everything = len(keep) == len(ids)
            logits = self._lean.logits(packed[0], packed[1], None if everything else rows, max(positions), step)
            return logits if keep else logits[:0]
        # A model over several devices would look for these rows on the wrong one, so it gives all and we choose.
        wanted = 0 if self._spread else rows
        with running(step):
            output = self._model(
                input_ids=packed[:1], position_ids=packed[1:], use_cache=False, logits_to_keep=wanted, return_dict=True
            )
        logits = output.logits[0]
        assert isinstance(logits, torch.Tensor)
        if self._spread:
            return logits[keep]
        return logits if keep else logits[:0]


def _note_lengths(works: Iterable[Work]) -> None:
    for work in works:
        row = work.sequence.row
        assert row is not None
        row.length = work.start + work.count


def wants_prompt_logprobs(work: Work) -> bool:
    sequence = work.sequence
    return (
        sequence.params.prompt_logprobs is not None
        and sequence.index == 0
        and work.start < sequence.prompt_length
        and not sequence.decoding
        and sequence.generated == 0
    )


def _groups(decode: list[Work]) -> list[DecodeGroup]:
    groups: list[DecodeGroup] = []
    at = 0
    while at < len(decode):
        size_class = _class_of(decode[at])
        end = at
        while end < len(decode) and _class_of(decode[end]) == size_class:
            end += 1
        members = decode[at:end]
        slots = [work.sequence.row.slot for work in members if work.sequence.row is not None]
        groups.append(DecodeGroup(size_class, at, slots, [work.start for work in members]))
        at = end
    return groups


def _chunks(plan: Plan) -> list[PrefillChunk]:
    chunks: list[PrefillChunk] = []
    first = len(plan.decode)
    for work in plan.prefill:
        row = work.sequence.row
        assert row is not None
        chunks.append(PrefillChunk(row.size_class, first, row.slot, work.start, work.count))
        first += work.count
    return chunks


def _class_of(work: Work) -> int:
    assert work.sequence.row is not None
    return work.sequence.row.size_class


@torch.inference_mode()
def probe_layers(model: Any, device: torch.device) -> tuple[list[LayerSpec], list[AttentionKind]]:
    """Run four tokens through the model and read from our attention function what each layer stores.

    Raises:
        RuntimeError: the model's layers do not all go through the attention interface.
    """
    seen: dict[int, tuple[LayerSpec, AttentionKind]] = {}
    _packed_logits(model, [4], device, seen)
    if not seen or sorted(seen) != list(range(len(seen))):
        raise RuntimeError("the model's layers do not go through the attention interface")
    found = [seen[layer] for layer in range(len(seen))]
    return [spec for spec, _ in found], [kind for _, kind in found]


@torch.inference_mode()
def packed_agrees(model: Any, device: torch.device) -> bool:
    """Whether two sequences packed together get the logits that the model's own attention gives each of them."""
    lengths = [5, 9]
    packed = _packed_logits(model, lengths, device, None)
    model.set_attn_implementation("eager")
    try:
        alone = [model(input_ids=_probe_ids(n, device)[None], use_cache=False).logits[0, -1] for n in lengths]
    finally:
        model.set_attn_implementation(NAME)
    return deviation(packed.float(), torch.stack(alone).float()) < _rounding(model)


def _rounding(model: Any) -> float:
    """How far logits may be apart, in units of their spread, by rounding alone; a wrong mask or a missing bias moves
    them by their own spread."""
    if any(type(module).__name__ == "Linear8bitLt" for module in model.modules()):
        # LLM.int8 keeps the columns with an outlier anywhere in the batch exact, so the company changes the rounding.
        return 0.5
    # bf16 keeps three digits.
    return 0.1


@torch.inference_mode()
def lean_agrees(model: Any, lean: LeanDecoder, device: torch.device, lengths: tuple[int, ...] = (5, 9)) -> bool:
    """Whether the lean forward gives what the model's own code gives, for sequences of these lengths."""
    want = _packed_logits(model, list(lengths), device, None).float()
    got = _packed_logits(model, list(lengths), device, None, lean).float()
    # 8-bit inputs and weights: a last bit that differs before a rounding is one of far fewer after it, in every layer.
    exact = model.dtype == torch.float32 and not any(isinstance(module, Int8Linear) for module in model.modules())
    bound = 1e-3 if exact else _rounding(model)
    return deviation(got, want) < bound


@torch.inference_mode()
def adapters_compute(model: Any, lean: LeanDecoder | None, adapters: Adapters, device: torch.device) -> bool:
    """Whether a batch of every adapter and none can be computed, in the lean form as in the model's own code."""
    users = [(name, 2) for name in ("", *adapters.names)]
    with applied(adapters.batch(users, None)):
        try:
            _packed_logits(model, [count for _, count in users], device, None)
        except RuntimeError:
            return False
        return lean is None or lean_agrees(model, lean, device, tuple(count for _, count in users))


@torch.inference_mode()
def step_time(model: Any, lean: LeanDecoder | None, device: torch.device, tokens: int) -> float:
    """Seconds for a step of so many tokens: the best of three, or of one where that took long."""
    lengths = [1] * tokens if tokens <= 16 else [16] * (tokens // 16)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        _packed_logits(model, lengths, device, None, lean)
        best = min(best, time.perf_counter() - start)
        if best > LONG:
            break
    return best


def _packed_logits(
    model: Any,
    lengths: list[int],
    device: torch.device,
    seen: dict[int, tuple[LayerSpec, AttentionKind]] | None,
    lean: LeanDecoder | None = None,
) -> torch.Tensor:
    """The last logits of fresh sequences of these lengths, computed in one packed forward without a store."""
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    chunks = [PrefillChunk(0, first, 0, 0, n) for first, n in zip(firsts, lengths, strict=True)]
    ids = torch.cat([_probe_ids(n, device) for n in lengths])[None]
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
    step = Step([], chunks, None, seen=seen)
    if lean is not None:
        logits = lean.logits(ids[0], positions[0], None, max(lengths) - 1, step)
    else:
        with running(step):
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    ends = [first + n - 1 for first, n in zip(firsts, lengths, strict=True)]
    rows: torch.Tensor = logits[ends]
    return rows


def _probe_ids(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(1, count + 1, device=device) * 3
