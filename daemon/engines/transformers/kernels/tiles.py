"""The innermost loop of products: a few rows times sixteen columns of packed weights, as vector instructions.

It is written in the compiler's own language, because what decides its speed is which numbers stay in registers: one
sum for each row and column, over the whole depth. Weights are read once for all rows of a tile and widened on the way.
A row's sums are added in the same order in every tile, so that its result does not depend on how many rows there are.

Weights lie in panels of sixteen columns, see `panels.py`: fp16 and bf16 as `[depth][16]`, and int8 as `[depth / 2][16]
[2]`. Rows for int8 are whole numbers of 16 bits: two of them and two weights make one instruction's multiply-and-add,
which does twice the work of one on fp32, and no sum can overflow (see `products.top`).
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from daemon.engines.transformers.kernels.compiling import INNER

COLUMNS = 16
ROWS = 6
"""The most of a tile: sums, weights and one number of a row fill AVX2's sixteen registers."""
_UNROLL = {1: 4, 2: 4, 3: 2}
"""Steps of a tile of few rows in one turn of its loop."""
_MANY = 3
"""From so many rows on, arithmetic takes as long as reading: what comes next is asked for ahead."""
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32, _F16 = ir.FloatType(), ir.HalfType()
_HAS_MADD = platform.machine() in {"x86_64", "AMD64"}


def _vector(kind: Any, count: int = COLUMNS) -> Any:
    return ir.VectorType(kind, count)


class _Emitter:
    """Writes the instructions of one tile."""

    def __init__(self, builder: Any, rows: int) -> None:
        self.builder = builder
        self.rows = rows

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        module = self.builder.module
        kinds = [argument.type for argument in arguments]
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(result, kinds), name)
        return self.builder.call(function, arguments)

    def read(self, address: Any, kind: Any, align: int) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def read_if(self, condition: Any, address: Any, otherwise: Any) -> Any:
        """A vector of fp32 from an address that may only be read then."""
        builder, before = self.builder, self.builder.block
        with builder.if_then(condition):
            found, inside = self.read(address, otherwise.type, 4), builder.block
        result = builder.phi(otherwise.type)
        result.add_incoming(otherwise, before)
        result.add_incoming(found, inside)
        return result

    def add(self, address: Any, count: Any, size: int = 1) -> Any:
        """An address so many things of `size` bytes further."""
        factor = ir.Constant(_I64, size)
        return self.builder.add(address, self.builder.mul(count, factor) if size != 1 else count)

    def spread(self, one: Any, count: int) -> Any:
        """One number in every place of a vector."""
        nothing = ir.Constant(_vector(one.type, count), ir.Undefined)
        first = self.builder.insert_element(nothing, one, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(_vector(_I32, count), [0] * count))

    def prefetch(self, address: Any) -> None:
        options = [ir.Constant(_I32, value) for value in (0, 2, 1)]
        self.call("llvm.prefetch.p0", ir.VoidType(), self.builder.inttoptr(address, _I8.as_pointer()), *options)

    def loop(self, first: Any, end: Any, sums: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """The sums after `body` has been there for each number from `first` up to `end`."""
        builder, before = self.builder, self.builder.block
        inside, behind = builder.append_basic_block("steps"), builder.append_basic_block("behind")
        builder.cbranch(builder.icmp_signed("<", first, end), inside, behind)
        builder.position_at_end(inside)
        at = builder.phi(_I64)
        at.add_incoming(first, before)
        held = [builder.phi(each.type) for each in sums]
        for phi, start in zip(held, sums, strict=True):
            phi.add_incoming(start, before)
        results = body(at, list(held))
        following, last = builder.add(at, ir.Constant(_I64, 1)), builder.block
        at.add_incoming(following, last)
        for phi, result in zip(held, results, strict=True):
            phi.add_incoming(result, last)
        builder.cbranch(builder.icmp_signed("<", following, end), inside, behind)
        builder.position_at_end(behind)
        found = [builder.phi(each.type) for each in sums]
        for phi, start, result in zip(found, sums, results, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(result, last)
        return found


class _Floats(_Emitter):
    """Weights of 16 bits times fp32, one number of each row after the other."""

    def __init__(self, builder: Any, rows: int, kind: Any) -> None:
        super().__init__(builder, rows)
        self._bfloat = kind == types.int16

    size, deep = 4, 1

    def start(self) -> list[Any]:
        return [ir.Constant(_vector(_F32), [0.0] * COLUMNS)] * self.rows

    def step(self, at: Any, rows: list[Any], weights: Any, ahead: Any, sums: list[Any]) -> list[Any]:
        if self.rows >= _MANY:
            self.prefetch(self.builder.add(ahead[0], self.builder.mul(at, ahead[1])))
        wide = self._widened(self.add(weights, at, 2 * COLUMNS))
        results = []
        for row, total in zip(rows, sums, strict=True):
            one = self.spread(self.read(self.add(row, at, 4), _F32, 4), COLUMNS)
            results.append(self.call("llvm.fma.v16f32", total.type, one, wide, total))
        return results

    def _widened(self, address: Any) -> Any:
        if not self._bfloat:
            return self.builder.fpext(self.read(address, _vector(_F16), 2), _vector(_F32))
        bits = self.builder.zext(self.read(address, _vector(_I16), 2), _vector(_I32))
        shifted = self.builder.shl(bits, ir.Constant(_vector(_I32), [16] * COLUMNS))
        return self.builder.bitcast(shifted, _vector(_F32))

    def finish(self, sums: list[Any], scales: Any, steps: Any) -> list[Any]:
        return sums


class _Integers(_Emitter):
    """int8 weights times whole numbers of 16 bits, two of each row after the other."""

    size, deep = 2, 2

    def start(self) -> list[Any]:
        return [ir.Constant(_vector(_I32, 8), [0] * 8)] * (2 * self.rows)

    def step(self, at: Any, rows: list[Any], weights: Any, ahead: Any, sums: list[Any]) -> list[Any]:
        if self.rows >= _MANY:
            self.prefetch(self.builder.add(ahead[0], self.builder.mul(at, ahead[1])))
        place = self.add(weights, at, 2 * COLUMNS)
        halves = [
            self.builder.sext(self.read(self.add(place, ir.Constant(_I64, start)), _vector(_I8), 1), _vector(_I16))
            for start in (0, COLUMNS)
        ]
        results = []
        for number, row in enumerate(rows):
            pair = self.spread(self.read(self.add(row, at, 4), _I32, 2), 8)
            both = self.builder.bitcast(pair, _vector(_I16))
            for half in range(2):
                results.append(self.builder.add(sums[2 * number + half], self._products(both, halves[half])))
        return results

    def _products(self, a: Any, b: Any) -> Any:
        """The products of eight pairs, each pair's two added."""
        if _HAS_MADD:
            return self.call("llvm.x86.avx2.pmadd.wd", _vector(_I32, 8), a, b)
        wide = self.builder.mul(self.builder.sext(a, _vector(_I32)), self.builder.sext(b, _vector(_I32)))
        nothing = ir.Constant(_vector(_I32), ir.Undefined)
        even, odd = (
            self.builder.shuffle_vector(wide, nothing, ir.Constant(_vector(_I32, 8), list(range(first, COLUMNS, 2))))
            for first in (0, 1)
        )
        return self.builder.add(even, odd)

    def finish(self, sums: list[Any], scales: Any, steps: Any) -> list[Any]:
        builder = self.builder
        places = ir.Constant(_vector(_I32), list(range(COLUMNS)))
        scale = self.read(scales, _vector(_F32), 4)
        results = []
        for number in range(self.rows):
            whole = builder.shuffle_vector(sums[2 * number], sums[2 * number + 1], places)
            step = self.spread(self.read(self.add(steps, ir.Constant(_I64, 4 * number)), _F32, 4), COLUMNS)
            results.append(builder.fmul(builder.sitofp(whole, _vector(_F32)), builder.fmul(step, scale)))
        return results


def _emit(builder: Any, kind: Any, count: int, arguments: Any) -> None:
    x, stride, weights, depth, ahead, pace, scales, bias, steps, out, width, add = arguments
    tile = _Integers(builder, count) if kind == types.int8 else _Floats(builder, count, kind)
    rows = [tile.add(x, builder.mul(stride, ir.Constant(_I64, number)), tile.size) for number in range(count)]
    turns = builder.sdiv(depth, ir.Constant(_I64, tile.deep))
    unroll = _UNROLL.get(count, 1)
    many = builder.sdiv(turns, ir.Constant(_I64, unroll))

    def several(at: Any, sums: list[Any]) -> list[Any]:
        first = builder.mul(at, ir.Constant(_I64, unroll))
        for number in range(unroll):
            place = builder.add(first, ir.Constant(_I64, number))
            sums = tile.step(place, rows, weights, (ahead, pace), sums)
        return sums

    sums = tile.loop(ir.Constant(_I64, 0), many, tile.start(), several)
    done = builder.mul(many, ir.Constant(_I64, unroll))
    sums = tile.loop(done, turns, sums, lambda at, held: tile.step(at, rows, weights, (ahead, pace), held))
    zeros = ir.Constant(_vector(_F32), [0.0] * COLUMNS)
    extra = tile.read_if(builder.icmp_signed("!=", bias, ir.Constant(_I64, 0)), bias, zeros)
    for number, result in enumerate(tile.finish(sums, scales, steps)):
        place = tile.add(out, builder.mul(width, ir.Constant(_I64, number)), 4)
        before = tile.read_if(builder.icmp_signed("!=", add, ir.Constant(_I64, 0)), place, zeros)
        whole = builder.fadd(builder.fadd(result, extra), before)
        builder.store(whole, builder.inttoptr(place, whole.type.as_pointer()), align=4)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _tile(
    context: Any,
    kind: Any,
    rows: Any,
    x: Any,
    stride: Any,
    weights: Any,
    depth: Any,
    ahead: Any,
    pace: Any,
    scales: Any,
    bias: Any,
    steps: Any,
    out: Any,
    width: Any,
    add: Any,
) -> Any:
    """See `multiply`; the number of rows is a constant."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit(builder, kind, rows.literal_value, arguments[2:])
        return context.get_dummy_value()

    return types.void(kind, rows, *[types.int64] * 12), build


# Not as the others, whose arithmetic may be done in any order; unless it is said, it is as whoever calls wants it.
@njit(fastmath=False, error_model="numpy", **INNER)  # type: ignore[untyped-decorator]
def multiply(
    kind: Any,
    rows: Any,
    x: Any,
    stride: Any,
    weights: Any,
    depth: Any,
    ahead: Any,
    pace: Any,
    scales: Any,
    bias: Any,
    steps: Any,
    out: Any,
    width: Any,
    add: Any,
) -> None:
    """Up to ROWS rows times one panel. All but counts are addresses.

    Args:
        kind: of the weights.
        x: the rows, `stride` numbers apart: fp32, or 16-bit whole numbers for int8.
        weights: the panel; ahead: what will be read next, and `pace` how many bytes of it are asked for at each step.
        depth: numbers of a row; even for int8.
        scales: of the panel's columns, steps: of the rows, both for int8.
        bias: of the panel's columns, or 0.
        out: the first row's sixteen answers, `width` numbers before the next row's; they are added to if `add`.
    """
    if rows == 1:
        _tile(kind, 1, x, stride, weights, depth, ahead, pace, scales, bias, steps, out, width, add)
    elif rows == 2:
        _tile(kind, 2, x, stride, weights, depth, ahead, pace, scales, bias, steps, out, width, add)
    elif rows == 3:
        _tile(kind, 3, x, stride, weights, depth, ahead, pace, scales, bias, steps, out, width, add)
    elif rows == 4:
        _tile(kind, 4, x, stride, weights, depth, ahead, pace, scales, bias, steps, out, width, add)
    elif rows == 5:
        _tile(kind, 5, x, stride, weights, depth, ahead, pace, scales, bias, steps, out, width, add)
    else:
        _tile(kind, 6, x, stride, weights, depth, ahead, pace, scales, bias, steps, out, width, add)
