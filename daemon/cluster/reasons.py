"""What a placement's state means, in words: pure functions over what the cluster said."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.cluster.messages import Node, Seen
from daemon.store.placements import Need
from fcd.wire.admin import WorkerState

VRAM = "vram_mib"
_SHOWN_NODES = 4


def resources(need: Need) -> dict[str, float]:
    """The need as Ray's bundle."""
    wanted = {"CPU": need.cpus, "GPU": need.gpus, "memory": need.memory, VRAM: need.vram_mib}
    return {name: float(amount) for name, amount in wanted.items() if amount}


def fits(need: Need, there: dict[str, float]) -> bool:
    return all(there.get(name, 0.0) >= amount for name, amount in resources(need).items())


def share(need: Need, nodes: int) -> Need:
    """What each of so many nodes reserves: GPUs and their memory are split, CPUs and RAM are needed on each."""
    return Need(need.cpus, need.gpus // nodes, need.memory, -(-need.vram_mib // nodes))


def nodes_for(need: Need, nodes: Sequence[Node], *, spreads: bool) -> int:
    """Over how many nodes it goes: one if one could ever hold it, else as few as can, evenly; 0: it fits nowhere."""
    if any(fits(need, node.total) for node in nodes):
        return 1
    counts = _splits(need, len(nodes)) if spreads else []
    return next((count for count in counts if _able(share(need, count), nodes) >= count), 0)


def gpus_by_memory(vram_mib: int, nodes: Sequence[Node]) -> int:
    """How many nodes' GPUs hold so much; 1 where one node's do, where no nodes would do, or none says what it has."""
    needs = {count: Need(0, 1, 0, -(-vram_mib // count)) for count in range(1, len(nodes) + 1)}
    return next((count for count, need in needs.items() if _able(need, nodes) >= count), 1)


def _splits(need: Need, most: int) -> list[int]:
    return [count for count in range(2, min(need.gpus, most) + 1) if need.gpus % count == 0]


def _able(need: Need, nodes: Sequence[Node]) -> int:
    return sum(fits(need, node.total) for node in nodes)


def describe(amounts: dict[str, float]) -> str:
    """`2 CPU, 1 GPU, 4.0 GiB RAM`: what models need, and nothing else that Ray counts."""
    words = [f"{amounts.get('CPU', 0):g} CPU", f"{amounts.get('GPU', 0):g} GPU"]
    if amounts.get("memory"):
        words.append(f"{amounts['memory'] / 2**30:.1f} GiB RAM")
    if amounts.get(VRAM):
        words.append(f"{amounts[VRAM] / 1024:.1f} GiB GPU memory")
    return ", ".join(words)


def asked(need: Need) -> str:
    wanted = resources(need)
    return describe(wanted).replace(", 0 GPU", "")


def why_pending(need: Need, nodes: Sequence[Node], *, spreads: bool = False) -> str:
    """What is asked, what the cluster has, and whether waiting can help."""
    if not nodes:
        return f"It asks for {asked(need)}, and the cluster has no node that lives."
    count = nodes_for(need, nodes, spreads=spreads)
    if count > 1:
        each = share(need, count)
        able = [node for node in nodes if fits(each, node.total)]
        shown = "; ".join(f"{_name(node)} has {describe(node.free)} free" for node in able[:_SHOWN_NODES])
        return (
            f"It asks for {asked(each)} on each of {count} nodes, and waits until they are free: {shown}{_more(able)}."
        )
    able = [node for node in nodes if fits(need, node.total)]
    if able:
        shown = "; ".join(f"{_name(node)} has {describe(node.free)} free" for node in able[:_SHOWN_NODES])
        return f"It asks for {asked(need)} and waits until a node has that free: {shown}{_more(able)}."
    shown = "; ".join(f"{_name(node)} has {describe(node.total)}" for node in nodes[:_SHOWN_NODES])
    return (
        f"It asks for {asked(need)} on one node, more than any has: {shown}{_more(nodes)}."
        f"{_advice(need, nodes, spreads)}"
    )


def _advice(need: Need, nodes: Sequence[Node], spreads: bool) -> str:
    joins = " It starts when such a node joins."
    counts = _splits(need, need.gpus) if spreads else []
    if counts:
        # The split that some of the nodes could already have a part of.
        count = next((count for count in counts if _able(share(need, count), nodes)), counts[0])
        each = share(need, count)
        has = _able(each, nodes)
        return (
            f" Spread over {count} nodes it takes {asked(each)} on each, and {has} of the cluster's {len(nodes)} "
            f"{'has' if has == 1 else 'have'} that.{_without_memory(need, nodes)} It starts when enough nodes join."
        )
    if need.gpus > 1 and sum(node.total.get("GPU", 0) for node in nodes) >= need.gpus:
        return f" Over several nodes a model runs in vLLM only: --engine vllm.{joins}"
    return _without_memory(need, nodes) + joins


def _without_memory(need: Need, nodes: Sequence[Node]) -> str:
    if need.vram_mib and not any(node.total.get(VRAM) for node in nodes):
        return f" No node says how much GPU memory it has: `ray start --resources='{{\"{VRAM}\": 81920}}'`."
    return ""


def _name(node: Node) -> str:
    return node.host if node.host and node.host == node.address else f"{node.host or 'node'} ({node.address})"


def _more(nodes: Sequence[Node]) -> str:
    return f"; and {len(nodes) - _SHOWN_NODES} more" if len(nodes) > _SHOWN_NODES else ""


def state_of(
    seen: Seen | None, need: Need, nodes: Sequence[Node], *, leaving: bool, spreads: bool = False
) -> tuple[WorkerState, str]:
    """The worker's state as people see it, and the reason where it does not run."""
    if leaving:
        return "stopping", ""
    if seen is None or not seen.group:
        return "starting", ""
    if seen.group == "PENDING":
        return "pending", why_pending(need, nodes, spreads=spreads)
    if seen.group == "RESCHEDULING":
        waits = why_pending(need, nodes, spreads=spreads)
        return "pending", f"The node that it ran on is lost; it goes elsewhere. {waits}"
    status = seen.status
    if status is None:
        return "starting", seen.problem
    # Only a worker that has registered is ready, and then the registry says so.
    return ("loading" if status.state == "ready" else status.state), status.error
