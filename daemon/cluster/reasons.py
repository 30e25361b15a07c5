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


def why_pending(need: Need, nodes: Sequence[Node]) -> str:
    """What is asked, what the cluster has, and whether waiting can help."""
    if not nodes:
        return f"It asks for {asked(need)}, and the cluster has no node that lives."
    able = [node for node in nodes if fits(need, node.total)]
    if able:
        shown = "; ".join(f"{_name(node)} has {describe(node.free)} free" for node in able[:_SHOWN_NODES])
        return f"It asks for {asked(need)} and waits until a node has that free: {shown}{_more(able)}."
    shown = "; ".join(f"{_name(node)} has {describe(node.total)}" for node in nodes[:_SHOWN_NODES])
    return (
        f"It asks for {asked(need)} on one node, more than any has: {shown}{_more(nodes)}.{_advice(need, nodes)}"
        " It starts when such a node joins."
    )


def _advice(need: Need, nodes: Sequence[Node]) -> str:
    if need.vram_mib and not any(node.total.get(VRAM) for node in nodes):
        return f" No node says how much GPU memory it has: `ray start --resources='{{\"{VRAM}\": 81920}}'`."
    if need.gpus and sum(node.total.get("GPU", 0) for node in nodes) >= need.gpus:
        return " A model is placed on one node, not over several."
    return ""


def _name(node: Node) -> str:
    return node.host if node.host and node.host == node.address else f"{node.host or 'node'} ({node.address})"


def _more(nodes: Sequence[Node]) -> str:
    return f"; and {len(nodes) - _SHOWN_NODES} more" if len(nodes) > _SHOWN_NODES else ""


def state_of(seen: Seen | None, need: Need, nodes: Sequence[Node], *, leaving: bool) -> tuple[WorkerState, str]:
    """The worker's state as people see it, and the reason where it does not run."""
    if leaving:
        return "stopping", ""
    if seen is None or not seen.group:
        return "starting", ""
    if seen.group == "PENDING":
        return "pending", why_pending(need, nodes)
    if seen.group == "RESCHEDULING":
        return "pending", f"The node that it ran on is lost; it goes elsewhere. {why_pending(need, nodes)}"
    status = seen.status
    if status is None:
        return "starting", seen.problem
    # Only a worker that has registered is ready, and then the registry says so.
    return ("loading" if status.state == "ready" else status.state), status.error
