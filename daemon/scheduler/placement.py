"""Where a model goes: filter the devices, fit one or several of them, take the best. Pure; sizes are bytes.

A device is `cpu` (the machine's RAM) or the name of a GPU; free memory is a mapping of devices in the machine's own
order, in which a GPU's number is its place among the GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

CPU = "cpu"
SPREAD_BYTES = 512 * 2**20
"""What each further GPU takes for itself: its CUDA context and the activations that cross."""

MIG = "MIG-"
"""How the UUID of a slice of a GPU begins."""

Claims = dict[str, int]
"""Device to the bytes that a worker takes there."""


class Needs(msgspec.Struct, frozen=True):
    """What a model takes and where it may go."""

    gpu: int = 0
    """Bytes when it is on GPUs; 0 is not known."""
    cpu: int = 0
    """Bytes when it is in RAM, where its numbers may be wider; 0 is not known."""
    allow_gpu: bool = True
    allow_cpu: bool = True
    pins: tuple[str, ...] = ()
    """These GPUs and no others, by number or name."""
    count: int = 0
    """Exactly so many GPUs; 0 takes as few as will do."""
    cap: int = 0
    """At most this much of each GPU; 0 is all."""
    splits: tuple[int, ...] = ()
    """The numbers of GPUs that it can be cut over, best first; empty is any, fewest first."""
    even: bool = False
    """Each GPU holds the same, as tensor parallelism has it; else a share by what is free there."""
    wish: int = 0
    """Bytes on GPUs that it would make use of where they are free, `gpu` included; 0 is no more than that."""
    kv: int = 0
    """The bytes in `gpu` and `cpu` that are KV cache: what it must have of that at least."""
    rest: int = 0
    """Bytes of RAM that it keeps while it sleeps."""
    exactly: tuple[tuple[str, int], ...] = ()
    """These bytes of these devices: what a process that sleeps needs to wake where it is. All else is passed over."""

    def on(self, device: str) -> int:
        return self.cpu if device == CPU else self.gpu

    def grown(self) -> Needs:
        """After it ran out of memory: half as much again."""
        more = {"gpu": self.gpu * 3 // 2, "cpu": self.cpu * 3 // 2}
        return msgspec.structs.replace(self, **more, wish=max(self.wish, more["gpu"]) if self.wish else 0)


def ways(needs: Needs, free: Mapping[str, int]) -> list[Needs]:
    """The same needs on GPUs alone, then in RAM alone, as far as they are allowed and there."""
    if needs.exactly:
        return [needs]
    found = []
    if needs.allow_gpu and gpus(free):
        found.append(msgspec.structs.replace(needs, allow_cpu=False))
    if needs.allow_cpu:
        found.append(msgspec.structs.replace(needs, allow_gpu=False))
    return found


def plan(needs: Needs, free: Mapping[str, int]) -> Claims | None:
    """The devices for a model and what it takes of each; None when it does not fit.

    One GPU before several, as few as will do, those with the most free memory; RAM when no GPUs will do.
    """
    if needs.exactly:
        return dict(needs.exactly) if all(size <= free.get(device, size) for device, size in needs.exactly) else None
    found = _on_gpus(needs, free) if needs.allow_gpu else None
    if found is None and needs.allow_cpu and (CPU not in free or needs.cpu <= free[CPU]):
        found = {CPU: needs.cpu}
    return found


def candidates(needs: Needs, free: Mapping[str, int]) -> list[str]:
    """The devices that it may take from, whatever is free there."""
    if needs.exactly:
        return [device for device, _ in needs.exactly]
    found = (_pinned(needs.pins, gpus(free)) or []) if needs.allow_gpu else []
    return [*found, CPU] if needs.allow_cpu else found


def gpus(free: Mapping[str, int]) -> list[str]:
    return [device for device in free if device != CPU]


def _on_gpus(needs: Needs, free: Mapping[str, int]) -> Claims | None:
    able = _pinned(needs.pins, gpus(free))
    if not able:
        return None
    usable = {gpu: max(0, min(free[gpu], needs.cap) if needs.cap else free[gpu]) for gpu in able}
    best = sorted(able, key=lambda gpu: -usable[gpu])
    for size in _sizes(needs, len(able)):
        # A process sees one slice of a MIG GPU, however many it is given.
        whole = best if size == 1 else [gpu for gpu in best if not gpu.startswith(MIG)]
        chosen = whole[:size]
        if len(chosen) == size and (found := _shared(needs, {gpu: usable[gpu] for gpu in chosen})) is not None:
            return {gpu: found[gpu] for gpu in sorted(chosen, key=able.index)}
    return None


def _sizes(needs: Needs, there: int) -> list[int]:
    """The numbers of GPUs to try, best first."""
    exactly = needs.count or len(needs.pins)
    if exactly:
        return [exactly]
    return [size for size in needs.splits or range(1, there + 1) if size <= there]


def _shared(needs: Needs, usable: Mapping[str, int]) -> Claims | None:
    """What each of these GPUs is to hold; None when they are too small."""
    size = len(usable)
    wanted = needs.gpu + SPREAD_BYTES * (size - 1) if needs.gpu else 0
    wish = max(wanted, needs.wish + SPREAD_BYTES * (size - 1)) if needs.wish else wanted
    if needs.even:
        least, most = -(-wanted // size), min(usable.values())
        return dict.fromkeys(usable, min(most, max(least, wish // size))) if least <= most else None
    room = sum(usable.values())
    if wanted > room:
        return None
    total = min(room, wish)
    return {gpu: total * usable[gpu] // room if room else 0 for gpu in usable}


def _pinned(pins: Sequence[str], there: Sequence[str]) -> list[str] | None:
    """The GPUs that the pins name; all without pins, None when one of them is not there."""
    if not pins:
        return list(there)
    found = []
    for pin in pins:
        if pin.isdecimal():
            if int(pin) >= len(there):
                return None
            found.append(there[int(pin)])
        elif pin in there:
            found.append(pin)
        else:
            return None
    return list(dict.fromkeys(found))


def shortage(needs: Needs, free: Mapping[str, int]) -> str:
    """What is needed and what is free, for people."""
    if needs.exactly:
        parts = [f"{gib(size)} of {device} ({gib(free.get(device, 0))} free)" for device, size in needs.exactly]
        return " and ".join(parts)
    cards = gpus(free)
    parts = []
    if needs.allow_gpu and cards:
        pinned = _pinned(needs.pins, cards)
        if pinned is None:
            parts.append(f"it is pinned to GPU {', '.join(needs.pins)}, and this machine has {len(cards)}")
        else:
            each = ", ".join(f"GPU {cards.index(gpu)}: {gib(free[gpu])}" for gpu in pinned)
            limit = f", at most {gib(needs.cap)} of each" if needs.cap else ""
            number = f" over {needs.count} GPUs" if needs.count > 1 else ""
            if not number and needs.splits and len(cards) > 1:
                number = f" (it can be cut over {', '.join(map(str, needs.splits))} GPUs)"
            parts.append(f"about {gib(needs.gpu)} of GPU memory{number} ({each} free{limit})")
    elif needs.allow_gpu and not needs.allow_cpu:
        parts.append("it is to run on a GPU, and none is known on this machine")
    if needs.allow_cpu:
        parts.append(f"about {gib(needs.cpu)} of RAM ({gib(free.get(CPU, 0))} free)")
    return ", or ".join(parts)


def gib(size: int) -> str:
    return f"{max(0, size) / 2**30:.1f} GiB"
