"""Shares the cores out: with several test processes, each gets its part, or their threads wait for each other."""

from __future__ import annotations

import os
import signal

import pytest

_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = str(max(1, (os.cpu_count() or 1) // _PROCESSES))

_SHARED = "FCD_TESTS_SHARED"
"""Which of them the first process of the tests has set, whose environment the others get."""

# Read by torch when it is first imported, here and in every process that a test starts.
for _name in ("OMP_NUM_THREADS", "FCD_TORCH_THREADS"):
    if _name not in os.environ or _name in os.environ.get(_SHARED, ""):
        os.environ[_name] = _THREADS
        os.environ[_SHARED] = f"{os.environ.get(_SHARED, '')} {_name}"


def pytest_sessionstart() -> None:
    """Ctrl-C must reach the programs under test, also where a shell in the background had it ignored for all below."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_LONG = (
    "test_lora",
    "test_killed",
    "test_lm_eval",
    "test_faults_workers",
    "test_half",
    "test_fastchat_gradio",
    "test_ray_spread",
    "test_panels",
    "test_lowbit",
    "test_tools_program",
    "test_fastchat_programs",
    "test_sampling",
    "test_three_machines",
    "test_flash_rows",
    "test_embeddings",
    "test_ray_placed",
    "test_ratings_arena_rank",
)
"""Files of a minute and more, the longest first. Several processes share files out in order (that is what
`--no-loadscope-reorder` is for): one of these begun last would keep one of them busy while the rest have nothing
to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(_LONG)))
