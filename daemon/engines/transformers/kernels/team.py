"""Compiled functions on the OpenMP threads that PyTorch's own operators run on.

A second pool of threads would fight with PyTorch's for the cores, and keep it from spinning (see `spinning.py`). So the
functions enter the OpenMP library that PyTorch brought, by the entry point that GNU's compiler uses.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

THREAD = "omp_get_thread_num"
THREADS = "omp_get_num_threads"
BARRIER = "GOMP_barrier"
_ENTRY = "GOMP_parallel"
_MAPS = Path("/proc/self/maps")
_BACKEND = "ATen parallel backend: OpenMP"
_NAMES = ("libgomp", "libiomp5", "libomp")


class Team:
    """Runs a compiled `void function(void *)` once on each of PyTorch's threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.symbols = {name: _address(library, name) for name in (THREAD, THREADS, BARRIER)}
        # ctypes gives the GIL away meanwhile.
        self._enter = getattr(library, _ENTRY)
        self._enter.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self._enter.restype = None

    def run(self, function: int, data: int, threads: int) -> None:
        """Call the function at an address with the address of its data, on so many threads at once."""
        self._enter(function, data, threads, 0)


def find_team() -> Team | None:
    """PyTorch's threads; None where they are not OpenMP's, or which library's they are cannot be told."""
    if _BACKEND not in torch.__config__.parallel_info() or not _MAPS.exists():
        return None
    lines = (line.split(maxsplit=5) for line in _MAPS.read_text(errors="replace").splitlines())
    paths = {Path(words[5]) for words in lines if len(words) == 6 and words[5].startswith("/")}
    found = [path for path in paths if path.name.startswith(_NAMES)]
    # Other packages bring such a library as well: PyTorch's stands beside its own.
    package = Path(torch.__file__).resolve().parent
    homes = {package / "lib", package.parent / "torch.libs"}
    own = [path for path in found if path.parent in homes] or found
    if len(own) != 1:
        return None
    library = ctypes.CDLL(str(own[0]))
    return Team(library) if all(hasattr(library, name) for name in (_ENTRY, THREAD, THREADS, BARRIER)) else None


def _address(library: ctypes.CDLL, name: str) -> int:
    found = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert found is not None
    return found
