"""What vLLM's log says of its start: which stage it is in, how far, and how much memory it took. Pure.

The lines are those of vLLM 0.25; a line that is not known changes nothing, so other versions show fewer stages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fcd.wire.admin import Progress

_PREFIX: Final = re.compile(r"^(?:\([^)]*pid=\d+[^)]*\) )*(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\] )?)?")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_GIB: Final = 2**30


@dataclass
class Start:
    """One start of vLLM as its log tells it."""

    stage: Progress
    weights_bytes: int = 0
    kv_bytes: int = 0
    graphs_bytes: int = 0
    kv_tokens: int = 0
    """How many tokens its KV cache holds."""
    version: str = ""

    @property
    def memory_bytes(self) -> int:
        """What it holds on each GPU, without what CUDA itself takes."""
        return self.weights_bytes + self.kv_bytes + self.graphs_bytes


def new_start() -> Start:
    return Start(Progress("starting vLLM"))


def plain(line: str) -> str:
    """A line of the log without colours, process, level and time."""
    return _PREFIX.sub("", _COLOUR.sub("", line)).strip()


def read_line(start: Start, line: str) -> bool:
    """Take one line of the log in; whether it changed the stage."""
    text = plain(line)
    for pattern, take in _LINES:
        found = pattern.search(text)
        if found is not None:
            before = start.stage
            take(start, found)
            return start.stage != before
    return False


def _enter(stage: str, detail: str = "") -> Callable[[Start, re.Match[str]], None]:
    def take(start: Start, found: re.Match[str]) -> None:
        if start.stage.stage != stage:
            start.stage = Progress(stage, detail=detail)

    return take


def _counted(stage: str, unit: str) -> Callable[[Start, re.Match[str]], None]:
    def take(start: Start, found: re.Match[str]) -> None:
        detail = f"({found['done']} of {found['total']} {unit})"
        start.stage = Progress(stage, float(found["done"]), float(found["total"]), detail=detail)

    return take


def _weights(start: Start, found: re.Match[str]) -> None:
    start.weights_bytes = int(float(found["gib"]) * _GIB)
    start.stage = Progress("measuring memory", detail=f"{found['gib']} GiB of weights")


def _room(start: Start, found: re.Match[str]) -> None:
    start.kv_bytes = int(float(found["gib"]) * _GIB)
    start.stage = Progress("making the KV cache", detail=f"{found['gib']} GiB")


def _tokens(start: Start, found: re.Match[str]) -> None:
    start.kv_tokens = int(found["tokens"].replace(",", ""))
    start.stage = Progress("making the KV cache", detail=f"room for {found['tokens']} tokens")


def _graphs(start: Start, found: re.Match[str]) -> None:
    start.graphs_bytes = int(max(float(found["gib"]), 0.0) * _GIB)
    start.stage = Progress("starting its server")


def _version(start: Start, found: re.Match[str]) -> None:
    start.version = found["version"]


_COUNT = r"(?P<done>\d+)/(?P<total>\d+)"
_LINES: Final[tuple[tuple[re.Pattern[str], Callable[[Start, re.Match[str]], None]], ...]] = (
    (re.compile(rf"Loading .*checkpoint shards.*?\| {_COUNT} \["), _counted("loading weights", "shards")),
    (re.compile(rf"Capturing CUDA graphs.*?\| *{_COUNT} \["), _counted("capturing CUDA graphs", "batch sizes")),
    (re.compile(r"Model loading took (?P<gib>[\d.]+) GiB"), _weights),
    (re.compile(r"Available KV cache memory: (?P<gib>[\d.]+) GiB"), _room),
    (re.compile(r"GPU KV cache size: (?P<tokens>[\d,]+) tokens"), _tokens),
    (re.compile(r"Graph capturing finished in .* took (?P<gib>-?[\d.]+) GiB"), _graphs),
    (re.compile(r"\bversion (?P<version>\d+\.\d+\.\d+[\w.+-]*)"), _version),
    (re.compile(r"Starting to load model|Loading weights with|Loading drafter"), _enter("loading weights")),
    (
        re.compile(r"for vLLM's torch\.compile|Dynamo bytecode transform time|Compiling a graph for|load the compiled"),
        _enter("compiling", "torch.compile; the result is kept for the next start"),
    ),
    (re.compile(r"torch\.compile took|torch\.compile and initial profiling"), _enter("measuring memory")),
    (re.compile(r"init engine \(profile, create kv cache"), _enter("starting its server")),
    (re.compile(r"Starting vLLM (?:API )?server"), _enter("starting its server")),
)
