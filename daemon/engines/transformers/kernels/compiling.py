"""What the kernels are written with: numba, and what it lacks for functions that get one address.

A kernel gets the address of a table of 64-bit numbers (addresses, counts, strides), and takes the share of its work
that falls to its thread of the OpenMP team that runs it. Arithmetic between counts is 64 bits wide, and `F` makes the
numbers that are not counts.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import carray, njit, types
from numba.core import config
from numba.extending import intrinsic

from daemon.engines.transformers.kernels.team import BARRIER, THREAD, THREADS, Team
from fcd.paths import resolve_paths

thread_number = types.ExternalFunction(THREAD, types.int32())
thread_count = types.ExternalFunction(THREADS, types.int32())
barrier = types.ExternalFunction(BARRIER, types.void())
"""Waits for all threads of the team; memory that they wrote before it can be read behind it."""
_ARITHMETIC: dict[str, Any] = {"fastmath": {"nsz", "contract", "reassoc"}, "error_model": "numpy"}
"""Sums in any order, so that they fill vectors; infinities and NaNs stay what they are."""
INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Of functions that only other compiled ones call: what Python would call them by takes as long to compile."""
MEETING = 32
_SPINS = 4000
"""Tens of microseconds, longer where a processor's pause is."""
_MONTH = 30 * 86400
_give_way = types.ExternalFunction("sched_yield", types.int32())
OPTIONS: dict[str, Any] = {**_ARITHMETIC, **INNER}
KEPT: dict[str, Any] = {**_ARITHMETIC, "cache": True}
"""Of the kernels themselves, into which everything else is compiled."""
SIGNATURE = types.void(types.CPointer(types.int64))
F = np.float32
# How numbers are stored: the type of one of these says it, since code is compiled for types. Those of 16 bits stand
# as their bits.
FP32, FP16, BF16, INT8 = np.float32(0), np.uint16(0), np.int16(0), np.int8(0)
KINDS: dict[str, Any] = {"fp32": FP32, "fp16": FP16, "bf16": BF16, "int8": INT8}


def prepare(team: Team) -> None:
    """Tell the compiler where OpenMP's functions are; before any kernel is imported."""
    for name, address in team.symbols.items():
        binding.add_symbol(name, address)


def keep_in(name: str) -> None:
    """Keep what is compiled next in a folder of this name: numba's own index of one function's kinds would be written
    by several processes at once."""
    folder = _compiled_folder() / name
    folder.mkdir(exist_ok=True)
    config.CACHE_DIR = str(folder)


@cache
def _compiled_folder() -> Path:
    """Beside Python's own bytecode, or in the caches where that cannot be written, or nowhere for long; one for these
    very sources, since numba looks at a kernel's own file alone. Those of sources that are long gone go."""
    here = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    name = f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    for base in (here / "__pycache__", resolve_paths().cache):
        folder = base / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.touch()
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            _forget_old(base, folder)
            return folder
    passing = Path(tempfile.mkdtemp(prefix="fcd-kernels-"))
    atexit.register(shutil.rmtree, passing, ignore_errors=True)
    return passing


def _forget_old(base: Path, folder: Path) -> None:
    """Other versions may be in use: only those that nobody has for a month."""
    for other in base.glob("kernels-*"):
        if other != folder and other.stat().st_mtime < time.time() - _MONTH:
            shutil.rmtree(other, ignore_errors=True)


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any, kind: Any) -> Any:
    target = types.CPointer(kind)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(target))

    return target(types.int64, kind), build


@intrinsic  # type: ignore[untyped-decorator]
def _add_one(context: Any, address: Any) -> Any:
    """To the 64-bit integer at an address, as one act among the threads; gives what was there."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(types.int64), build


@intrinsic  # type: ignore[untyped-decorator]
def _read(context: Any, address: Any) -> Any:
    """The 64-bit integer at an address, and whatever its writer wrote before it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), build


@intrinsic  # type: ignore[untyped-decorator]
def _write(context: Any, address: Any, value: Any) -> Any:
    """After all that was written before it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store_atomic(arguments[1], place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@intrinsic  # type: ignore[untyped-decorator]
def _pause(context: Any) -> Any:
    """Tell the processor that it waits."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine() in {"x86_64", "AMD64"}:
            module, name = builder.module, "llvm.x86.sse2.pause"
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(module.globals.get(name) or ir.Function(module, nothing, name), [])
        return context.get_dummy_value()

    return types.void(), build


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def meet(place: Any) -> None:
    """Wait for all threads of the team, as `barrier` does, without going to sleep: within a step the others come soon.

    Where they do not, somebody else wants their cores, and gets this one.

    Args:
        place: the address of MEETING zeroed 64-bit integers, kept from one step to the next: how many have come, and
            on a cache line of its own how often all have.
    """
    turn = place + 8 * (MEETING // 2)
    before = _read(turn)
    if _add_one(place) == np.int64(thread_count()) - 1:
        _write(place, 0)
        _write(turn, before + 1)
        return
    spins = 0
    while _read(turn) == before:
        spins += 1
        if spins < _SPINS:
            _pause()
        else:
            _give_way()


@intrinsic  # type: ignore[untyped-decorator]
def bytes_of(context: Any, kind: Any) -> Any:
    """Of one number of a kind."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(64), kind.bitwidth // 8)

    return types.int64(kind), build


@intrinsic  # type: ignore[untyped-decorator]
def number(context: Any, stored: Any) -> Any:
    """An fp32 number as it is, or the bits of one in fp16 made fp32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if stored == types.float32:
            return arguments[0]
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(stored), build


@intrinsic  # type: ignore[untyped-decorator]
def like(context: Any, value: Any, stored: Any) -> Any:
    """An fp32 number as one like the second is stored; in fp16 the largest there is stands for what is beyond it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = arguments[0]
        if stored == types.float32:
            return held
        for sign, beyond in ((1.0, ">"), (-1.0, "<")):
            most = ir.Constant(ir.FloatType(), sign * 65504.0)
            held = builder.select(builder.fcmp_ordered(beyond, held, most), most, held)
        return builder.bitcast(builder.fptrunc(held, ir.HalfType()), ir.IntType(16))

    return stored(types.float32, stored), build


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def stored(address: Any, count: Any, kind: Any) -> Any:
    """The numbers at an address as an array, of the type of `kind`: one of those above."""
    return carray(_pointer(address, kind), (count,))


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def floats(address: Any, count: Any) -> Any:
    """The fp32 numbers at an address, as an array."""
    return stored(address, count, FP32)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def integers(address: Any, count: Any) -> Any:
    """The 64-bit integers at an address, as an array."""
    return stored(address, count, np.int64(0))


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def share(count: Any) -> Any:
    """The first and the end of the calling thread's part of so many things, all parts side by side."""
    number, threads = np.int64(thread_number()), np.int64(thread_count())
    return count * number // threads, count * (number + 1) // threads


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def exponential(x: Any) -> Any:
    """e^x for x at most 0, in fp32, to 1e-7 of it: a power of two times a polynomial (Cephes' `expf`), which fills
    vectors where a call of the C library cannot. Below -87 it is 0; of no number it is none."""
    low = max(x, F(-87.0))
    whole = np.floor(low * F(1.44269504088896341) + F(0.5))
    rest = low - whole * F(0.693359375) + whole * F(2.12194440e-4)
    p = F(1.9875691500e-4)
    p = p * rest + F(1.3981999507e-3)
    p = p * rest + F(8.3334519073e-3)
    p = p * rest + F(4.1665795894e-2)
    p = p * rest + F(1.6666665459e-1)
    p = p * rest + F(5.0000001201e-1)
    p = p * rest * rest + rest + F(1.0)
    power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * power if x >= F(-87.0) else (F(0.0) if x < F(-87.0) else x)
