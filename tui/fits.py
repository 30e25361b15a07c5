"""Which well-known small models fit this machine: a short list, kept here, so that nothing is asked of a network."""

from __future__ import annotations

from collections.abc import Callable

from textual.content import Content

from tui import formats

KNOWN: tuple[tuple[str, float], ...] = (
    ("HuggingFaceTB/SmolLM2-360M-Instruct", 0.7e9),
    ("Qwen/Qwen3-0.6B", 1.5e9),
    ("Qwen/Qwen3-1.7B", 4.1e9),
    ("Qwen/Qwen3-4B", 8.1e9),
    ("Qwen/Qwen3-8B", 16.4e9),
    ("Qwen/Qwen3-14B", 29.6e9),
    ("Qwen/Qwen3-32B", 65.6e9),
)
"""Repo and bytes of its weights in 16 bits, smallest first."""
_ROOM = 1.2
"""Memory beside the weights: the context's keys and values, and what a step needs."""
_MOST = 3

Memory = Callable[[], tuple[int, str, float]]
"""Bytes that a model could take, of what, and how much larger than 16 bits a weight becomes there."""


def fitting(free_bytes: float, widened: float = 1.0) -> list[tuple[str, float]]:
    """The largest models that fit, the largest first: at most three."""
    found = [(repo, size) for repo, size in KNOWN if size * widened * _ROOM <= free_bytes]
    return found[::-1][:_MOST]


def probe_memory() -> tuple[int, str, float]:
    """The largest GPU's free memory, or this machine's where it has none. Takes up to seconds: call it in a thread."""
    import psutil

    from fcd.machine import gpus, loaded_dtype

    cards = gpus()
    if cards:
        card = max(cards, key=lambda card: card.free_bytes)
        return card.free_bytes, f"{card.name}'s memory", 1.0
    widened = 2.0 if loaded_dtype("cpu", "auto", "bfloat16") == "float32" else 1.0
    return psutil.virtual_memory().available, "memory", widened


def fitting_words(free_bytes: float, where: str, widened: float, key: str) -> Content:
    """The list as it is shown below the welcome; empty where nothing larger fits."""
    found = fitting(free_bytes, widened)
    if not found:
        return Content("")
    lines = [(f"\n\n{formats.size(free_bytes)} of {where} are free; these would fit:\n", "$foreground 70%")]
    for repo, size in found:
        lines += [(f"    {repo:<38}", ""), (f"{formats.size(size):>6}\n", "$foreground 60%")]
    lines += [("    fcd pull NAME", "bold"), (" in a shell gets one, ", "$foreground 70%")]
    lines += [(key, "bold $text-accent"), (" chooses it. ", "$foreground 70%")]
    lines += [("guide", "bold"), (" is here already.", "$foreground 70%")]
    return Content.assemble(*lines)
