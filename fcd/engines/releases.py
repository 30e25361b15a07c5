"""Which release of vLLM fits a machine.

Sources, looked at in November 2026:

- NVIDIA, "CUDA Compatibility: minor version compatibility": programs built with CUDA 13.x run on drivers from 580 on,
  those built with CUDA 12.x on drivers from 525 on.
- The packages' own metadata on PyPI: vLLM from 0.20 on pins torch 2.11 or later, whose wheels bring CUDA 13
  (`nvidia-cudnn-cu13`); vLLM 0.19.1 is the last that pins torch 2.10, whose wheels bring CUDA 12.8.
- vLLM's installation guide: compute capability 7.5 or higher; Linux.

0.25.1 rather than the newest is taken because it is the release that was tried with this program on such a GPU.
"""

from __future__ import annotations

import platform
import re

import msgspec

from fcd.errors import UsageError
from fcd.nvml import Reading

PYTHONS = ((3, 10), (3, 13))
"""The oldest and the newest Python that vLLM's packages are made for."""
LEAST_CAPABILITY = (7, 5)
NEED_BYTES = 10 * 10**9
"""What vLLM, torch and the CUDA libraries take on the disk, pip's own copies not counted."""

_VERSION = re.compile(r"\d+(\.\d+){1,3}((a|b|rc|\.post|\.dev)\d+)*", re.ASCII)


class Release(msgspec.Struct, frozen=True):
    version: str
    least_driver: int
    """Major version of the oldest driver."""
    cuda: str


RELEASES = (Release("0.25.1", 580, "13"), Release("0.19.1", 525, "12.8"))
"""Newest first."""


class Choice(msgspec.Struct, frozen=True):
    """What to install, and why it would not run here (empty: it would)."""

    version: str
    reason: str = ""
    cuda: str = ""


def choose(reading: Reading | None, version: str = "", *, system: str = "", why_none: str = "") -> Choice:
    """The release for a driver; a version that was asked for is taken as it is.

    Raises:
        UsageError: `version` is none.
    """
    if version and not _VERSION.fullmatch(version):
        raise UsageError(f"'{version}' is not a version of vLLM, such as {RELEASES[0].version}.")
    newest = version or RELEASES[0].version
    if (system or platform.system()) != "Linux":
        return Choice(newest, "vLLM's packages are for Linux.")
    if reading is None or not reading.cards:
        return Choice(newest, f"vLLM's packages need an NVIDIA GPU, and here is none ({why_none or 'no GPU'}).")
    best = max(card.capability for card in reading.cards)
    if best != (0, 0) and best < LEAST_CAPABILITY:
        return Choice(
            newest,
            f"vLLM needs a GPU of compute capability {_dotted(LEAST_CAPABILITY)}; this one has {_dotted(best)}.",
        )
    major = _major(reading.driver)
    fitting = next((release for release in RELEASES if major >= release.least_driver), None)
    if version:
        return Choice(version)
    if fitting is None:
        oldest = RELEASES[-1]
        return Choice(
            newest,
            f"The NVIDIA driver is {reading.driver}; vLLM's packages need {oldest.least_driver} or later"
            f" ({RELEASES[0].least_driver} for the newest). Bring the driver up to date.",
        )
    return Choice(fitting.version, cuda=fitting.cuda)


def fits(python: tuple[int, int]) -> bool:
    return PYTHONS[0] <= python <= PYTHONS[1]


def _major(driver: str) -> int:
    head = driver.partition(".")[0]
    return int(head) if head.isdecimal() else 0


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"
