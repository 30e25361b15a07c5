"""Linear layers whose weights stay 8-bit or 4-bit in memory and are multiplied as such, on CPU and Metal.

8-bit: one int8 row and one fp32 scale per output channel, symmetric. 4-bit: groups of 32 inputs share a scale and an
offset. Where there are compiled products (see `kernels/panels.py`) and they are faster, 8-bit weights are packed for
them. Which of PyTorch's kernels is fastest elsewhere depends on the machine and on the number of rows (VNNI favours
int8 x int8, AVX2 the dequantised block at many rows), so it is measured once, see `measure_kernels`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from daemon.engines.transformers.kernels.multiplying import multiplier
from daemon.engines.transformers.kernels.panels import Panels, pack

GROUP = 32
_BLOCK_ELEMENTS = 1 << 20
"""Dequantise about this many weights at a time: they stay in the cache until they are used."""
_READ = 40 << 20
"""Bytes of weights that are multiplied in a turn of a measurement."""


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 `[out, in]` and fp32 scale `[out]` with `weight` about `int8 * scale[:, None]`; row by row, so lean."""
    quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    step = max(1, _BLOCK_ELEMENTS // weight.shape[1])
    for at in range(0, weight.shape[0], step):
        block = weight[at : at + step].float()
        largest = block.abs().amax(1).clamp_min_(1e-12) / 127.0
        scale[at : at + step] = largest
        quantized[at : at + step] = (block / largest[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return quantized, scale


def packed_product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weight-only kernel of PyTorch, in bf16 whatever `x` is: its fp32 form is not vectorised everywhere."""
    ones = torch.ones(weight.shape[0], dtype=torch.bfloat16, device=x.device)
    return torch._weight_int8pack_mm(x.to(torch.bfloat16).contiguous(), weight, ones).float() * scale


def int8_product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """int8 x int8, each row of `x` quantised to its own largest value."""
    rows = x.float()
    largest = rows.abs().amax(1, keepdim=True).clamp_min_(1e-12) / 127.0
    quantized = (rows / largest).round_().to(torch.int8)
    return torch._int_mm(quantized, weight.t()).float() * largest * scale


def dequantized_product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A block of the weights at a time in the format of `x`: best where many rows share the cost."""
    step = max(1, _BLOCK_ELEMENTS // weight.shape[1])
    if step >= weight.shape[0]:
        return F.linear(x, weight.to(x.dtype)).float() * scale
    out = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float32, device=x.device)
    for at in range(0, weight.shape[0], step):
        out[:, at : at + step] = F.linear(x, weight[at : at + step].to(x.dtype))
    return out.mul_(scale)


Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
PRODUCTS: tuple[Product, ...] = (packed_product, int8_product, dequantized_product)
WHOLE_INPUTS: tuple[Product, ...] = (packed_product, dequantized_product)
"""Those that round the weights only."""


class Kernels:
    """Which product to use for how many rows: `steps` are (most rows, product), ascending; the last has no limit."""

    def __init__(self, steps: list[tuple[int, Product]] | None = None) -> None:
        self.steps = steps or [(16, packed_product), (1 << 62, dequantized_product)]

    def product(self, rows: int) -> Product:
        return next(product for most, product in self.steps if rows <= most)


def choose_kernels(time_of: Callable[[Product, int], float], products: tuple[Product, ...] = PRODUCTS) -> Kernels:
    """The fastest product for each of a few row counts.

    One that is far behind at a row count is not tried at larger ones: the slow ones would take seconds there.

    Args:
        time_of: seconds that a product takes for so many rows; infinity where it does not work.
    """
    left = list(products)
    steps: list[tuple[int, Product]] = []
    for rows in (1, 4, 8, 16, 32, 64, 256):
        times = {product: time_of(product, rows) for product in left}
        best = min(left, key=lambda product: times[product])
        steps.append((rows, best))
        left = [p for p in left if times[p] <= (8 if rows == 1 else 4) * times[best] or p is best]
        left = [p for p in left if times[p] < float("inf") or p is best]
    steps[-1] = (1 << 62, steps[-1][1])
    return Kernels(steps)


def measure_kernels(
    outputs: int,
    inputs: int,
    dtype: torch.dtype,
    device: torch.device,
    products: tuple[Product, ...] = PRODUCTS,
) -> Kernels:
    """Time the products on one layer's shape on this machine; about 0.1 s."""
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, device=device)
    scale = torch.ones(outputs, device=device)

    def time_of(product: Product, rows: int) -> float:
        x = torch.randn(rows, inputs, dtype=dtype, device=device)
        best = float("inf")
        try:
            for _ in range(4):
                start = time.perf_counter()
                product(x, weight, scale)
                best = min(best, time.perf_counter() - start)
        except (RuntimeError, NotImplementedError):
            return float("inf")
        return best

    return choose_kernels(time_of, products)


def panels_are_faster(outputs: int, inputs: int) -> bool:
    """Whether the compiled products with int8 weights are faster than PyTorch's in fp32 here, for layers of one shape,
    over 1 and 32 rows alike, on more weights than a cache holds."""
    compiled = multiplier("int8")
    if compiled is None:
        return False
    kernels = measure_kernels(outputs, inputs, torch.float32, torch.device("cpu"))
    count = max(1, _READ // (outputs * inputs))
    weight, scale = torch.randn(outputs, inputs, dtype=torch.float32), torch.ones(outputs)
    plain = [torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8) for _ in range(count)]
    packed = [pack(weight, "int8") for _ in range(count)]
    ratio = 1.0
    for rows in (1, 32):
        x = torch.randn(rows, inputs, dtype=torch.float32)
        product = kernels.product(rows)
        ours = [partial(compiled, x, each) for each in packed]
        ratio *= _best(ours) / _best([partial(product, x, codes, scale) for codes in plain])
    return ratio < 1


def _best(runs: Sequence[Callable[[], object]]) -> float:
    times = []
    for _ in range(2):
        start = time.perf_counter()
        for run in runs:
            run()
        times.append(time.perf_counter() - start)
    return min(times)


class LowBit(nn.Module):
    """What the layers share: a `weight` for the loader to find, which becomes `codes` and `scale` once it is read.

    Args:
        shape: the checkpoint's shape of the weight.
        dtype: the format that the layer's inputs and outputs have.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    panels: Panels | None = None
    """The weights, where compiled products read them."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.loaded = False
        self.partners: list[LowBit] = []
        """Layers that share its weight (the output layer and the embedding)."""
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)

    @property
    def unseen_bytes(self) -> int:
        """Bytes of weights that no parameter and no buffer shows."""
        return 0 if self.panels is None else self.panels.nbytes

    def take(self, weight: torch.Tensor) -> None:
        """Quantise the checkpoint's tensor into this layer."""
        self.hold(*self.encode(weight))

    def encode(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def hold(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        """Keep these."""
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.stand_in(codes.device)

    def hold_panels(self, panels: Panels) -> None:
        """Keep these."""
        self.panels = panels
        self.stand_in(torch.device("cpu"))

    def stand_in(self, device: torch.device) -> None:
        """Leave `weight` as a stand-in, the weights being kept elsewhere: model code looks at its dtype, shape and
        device.

        Its values are NaN without memory behind them, so whatever multiplied by it directly would show.
        """
        blank = torch.full((1, 1), float("nan"), dtype=self.dtype, device=device).expand(self.weight.shape)
        self.weight = nn.Parameter(blank, requires_grad=False)
        self.loaded = True


class Joined:
    """Layers of one input whose weights were packed as one; each is still asked by itself in the model's own code.

    The first that is asked computes them all, and the others of the same input take what is theirs.
    """

    def __init__(self, product: Callable[[torch.Tensor], torch.Tensor], parts: int) -> None:
        self._product = product
        self._parts = parts
        self._mine = threading.local()
        """Of each thread: what it last computed, of which input, and who has taken theirs."""

    def part(self, rows: torch.Tensor, source: torch.Tensor, number: int, start: int, stop: int) -> torch.Tensor:
        """Columns `start` to `stop` of the product.

        Args:
            rows: `[n, in]`, a view of `source`, the tensor that the layer was given.
            number: which of the layers asks.
        """
        nothing: tuple[torch.Tensor | None, torch.Tensor | None, set[int]] = (None, None, set())
        of, whole, taken = getattr(self._mine, "last", nothing)
        if of is not source or number in taken or whole is None:
            whole, taken = self._product(rows), set()
        taken.add(number)
        self._mine.last = (source, whole, taken) if len(taken) < self._parts else nothing
        return whole[:, start:stop].contiguous()


class LowBitLinear(LowBit):
    """A linear layer; `transposed` says that the checkpoint holds `[in, out]` (GPT-2's Conv1D)."""

    packs = False
    """It keeps its weights in panels."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dtype: torch.dtype, transposed: bool) -> None:
        super().__init__((inputs, outputs) if transposed else (outputs, inputs), dtype)
        self.in_features = inputs
        self.out_features = outputs
        self.transposed = transposed
        self.joined: tuple[Joined, LowBitLinear, int, int] | None = None
        """The product that this layer has become a part of, the layer that holds it, which part of it this is, and the
        column that it starts at."""
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype), requires_grad=False) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)
        if self.joined is None:
            out = self.product(rows)
        else:
            joined, _, number, start = self.joined
            out = joined.part(rows, x, number, start, start + self.out_features)
        if self.bias is not None:
            out = out.add_(self.bias) if out.dtype == torch.float32 else out + self.bias
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    @property
    def unseen_bytes(self) -> int:
        if self.joined is None:
            return super().unseen_bytes
        whole = self.joined[1]
        return whole.unseen_bytes * self.out_features // whole.out_features

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """`[n, in]` to `[n, out]`, without the bias."""
        assert self.panels is not None
        compiled = multiplier(self.panels.kind)
        assert compiled is not None
        wide = rows.float()
        return compiled(wide if wide.stride(-1) == 1 else wide.contiguous(), self.panels)


def join_layers(whole: LowBitLinear, modules: Sequence[LowBitLinear]) -> None:
    """Make `modules` parts of `whole`, which holds their panels below each other, and join their biases."""
    if any(module.bias is not None for module in modules):
        dtype = modules[0].dtype
        biases = [torch.zeros(m.out_features) if m.bias is None else m.bias.detach() for m in modules]
        whole.bias = nn.Parameter(torch.cat([bias.to(dtype) for bias in biases]), requires_grad=False)
    joined = Joined(whole.product, len(modules))
    start = 0
    for number, module in enumerate(modules):
        module.panels = None
        module.joined = (joined, whole, number, start)
        start += module.out_features


class Int8Linear(LowBitLinear):
    """int8 codes `[out, in]` and an fp32 scale for each output; or panels of both.

    Args:
        packs: keep them in panels.
    """

    kernels = Kernels()
    whole_inputs = False
    """Its inputs have outliers: no kernel that rounds them to int8."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool, dtype: torch.dtype, transposed: bool, packs: bool = False
    ) -> None:
        super().__init__(inputs, outputs, bias=bias, dtype=dtype, transposed=transposed)
        self.packs = packs

    def take(self, weight: torch.Tensor) -> None:
        if self.packs:
            self.hold_panels(pack(weight.T if self.transposed else weight, "int8"))
        else:
            super().take(weight)

    def encode(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return quantize_rows(weight.T.contiguous() if self.transposed else weight)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        if self.panels is not None:
            return super().product(rows)
        return self.kernels.product(rows.shape[0])(rows, self.codes, self.scale)


class Int4Linear(LowBitLinear):
    """4-bit codes in PyTorch's packed CPU layout, a scale and an offset for each 32 inputs of an output."""

    def encode(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight = (weight.T if self.transposed else weight).float()
        groups = weight.reshape(self.out_features, -1, GROUP)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / 15.0).clamp_min(1e-8)
        codes = ((groups - low) / scale).round_().clamp_(0, 15).to(torch.int32).view(self.out_features, -1)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        # The kernel computes (code - 8) * scale + offset.
        pairs = torch.stack([scale.squeeze(-1).T, (low + 8 * scale).squeeze(-1).T], -1)
        return packed, pairs.contiguous().to(torch.bfloat16)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows.to(torch.bfloat16).contiguous(), self.codes, GROUP, self.scale
        )
        return out


class LowBitTable(LowBit):
    """An embedding; where an output layer's panels hold the same weights, it reads those.

    Args:
        factor: what the model's own embedding class multiplies by (Gemma), None for a plain one.
    """

    def __init__(self, count: int, dim: int, *, dtype: torch.dtype, factor: float | None) -> None:
        super().__init__((count, dim), dtype)
        self.num_embeddings = count
        self.embedding_dim = dim
        self.scalar_embed_scale = factor

    @property
    def unseen_bytes(self) -> int:
        # They are the output layer's.
        return 0

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self.panels is None:
            rows = self.rows(ids)
        else:
            rows = self.panels.rows(ids.reshape(-1)).view(*ids.shape, self.embedding_dim)
        rows, factor = rows.to(self.dtype), self.scalar_embed_scale
        return rows if factor is None else rows * torch.tensor(factor, dtype=self.dtype)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Of the table that it holds itself."""
        raise NotImplementedError


class Int8Embedding(LowBitTable):
    """An embedding table of int8 rows; a tied output layer shares its tensors."""

    def encode(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return quantize_rows(weight)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        return self.codes[ids].float() * self.scale[ids].unsqueeze(-1)
