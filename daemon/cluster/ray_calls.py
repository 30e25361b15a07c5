"""All that is asked of Ray. Runs in the agent's process alone; nothing else imports Ray."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from daemon.cluster import group, host, part, run
from daemon.cluster.entry import check_door, head_of, own_token, use_token
from daemon.cluster.messages import AgentError, HostStatus, Launch, Node, Picture, Seen
from daemon.cluster.reasons import fits, resources, share
from daemon.store.placements import Need

NAMESPACE = "fcd"
_ANSWER_S = 3.0
_METHOD_S = 10.0


class RayCalls:
    """One cluster."""

    def __init__(self) -> None:
        self._ray: Any = None
        self._client = False
        self._handles: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        """Questions for a status that are still open: no second one is put to an actor that does not answer."""
        self._ask_free: Any = None

    def connect(self, cluster: str) -> None:
        """Raises AgentError: what is missing, and the next step."""
        token = own_token(os.environ, Path.home())
        use_token(token)
        try:
            import ray
            from ray._private.utils import read_ray_address
        except ImportError:
            raise AgentError(
                "Ray is not installed here.", hint="Install it where fcd is: pip install 'fcd[ray]'", code="no_ray"
            ) from None
        address = head_of(cluster, os.environ, str(read_ray_address() or ""))
        check_door(address, token)
        self._client = address.startswith("ray://")
        try:
            ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except BaseException as error:
            raise AgentError(_plain(error), hint=_hint_for(error)) from None
        for module in (host, part, group, run):
            ray.cloudpickle.register_pickle_by_value(module)
        self._ray = ray

    # What there is

    def picture(self, actors: Sequence[str], prefix: str) -> Picture:
        """The nodes, and what became of these placements and of all others whose names begin so."""
        from ray.util import list_named_actors, placement_group_table

        groups = {
            str(found["name"]): found
            for found in placement_group_table().values()
            if found["state"] != "REMOVED" and str(found["name"]).startswith(prefix)
        }
        named = {str(name) for name in list_named_actors() if str(name).startswith(prefix)}
        parts = Counter(name.partition("#")[0] for name in named if "#" in name)
        known = {*actors, *groups, *parts, *(name for name in named if "#" not in name)}
        answers = self._statuses([name for name in known if name in named and _is_placed(groups.get(name))])
        seen = {name: _seen(groups.get(name), name in named, answers.get(name), parts[name]) for name in known}
        return Picture(self.nodes(), seen)

    def nodes(self) -> list[Node]:
        free = self._free()
        return [
            Node(
                str(node["NodeID"]),
                str(node["NodeManagerAddress"]),
                str(node["NodeManagerHostname"]),
                dict(node["Resources"]),
                free.get(str(node["NodeID"]), {}),
            )
            for node in self._ray.nodes()
            if node["Alive"]
        ]

    def _free(self) -> dict[str, dict[str, float]]:
        if not self._client:
            return host.free_resources()
        if self._ask_free is None:
            self._ask_free = self._ray.remote(num_cpus=0)(host.free_resources)
        try:
            found: dict[str, dict[str, float]] = self._ray.get(self._ask_free.remote(), timeout=_METHOD_S)
            return found
        except self._ray.exceptions.RayError:
            return {}

    def _statuses(self, names: Sequence[str]) -> dict[str, HostStatus | str]:
        """What each actor says, or why it says nothing. An actor that hangs costs a moment, once."""
        found: dict[str, HostStatus | str] = {}
        for name in names:
            if name in self._asked:
                continue
            try:
                self._asked[name] = self._handle(name).status.remote()
            except Exception as error:
                found[name] = _plain(error)
        asked = {name: ref for name, ref in self._asked.items() if name in names}
        if asked:
            self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_S)
        for name, ref in asked.items():
            try:
                found[name] = msgspec.convert(self._ray.get(ref, timeout=0), HostStatus)
            except self._ray.exceptions.GetTimeoutError:
                found[name] = "Its node does not answer yet."
                continue
            except Exception as error:
                self._handles.pop(name, None)
                found[name] = _plain(error)
            del self._asked[name]
        return found

    def _handle(self, name: str) -> Any:
        if name not in self._handles:
            self._handles[name] = self._ray.get_actor(name, namespace=NAMESPACE)
        return self._handles[name]

    # What is done

    def place(self, actor: str, need: Need, launch: Launch, siblings: Sequence[str]) -> None:
        """Reserve what it needs, on one node or a part on each of several, and have the worker run there. What is there
        already is kept.
        """
        from ray.util.placement_group import get_placement_group, placement_group

        each = share(need, len(launch.parts) + 1)
        try:
            reserved = get_placement_group(actor)
        except Exception:
            if launch.parts:
                bundles = [resources(each)] * (len(launch.parts) + 1)
                reserved = placement_group(bundles, strategy="STRICT_SPREAD", name=actor, lifetime="detached")
            else:
                reserved = placement_group(
                    [resources(each)],
                    strategy="STRICT_PACK",
                    name=actor,
                    lifetime="detached",
                    # A wish: the node with the fewest of its kind. Where that node goes, it goes elsewhere.
                    _soft_target_node_id=self._best_node(need, siblings),
                )
        for number, name in enumerate(launch.parts, start=1):
            self._make(part.PartHost, name, each, reserved, number, name.replace("/", "-"))
        log = actor.replace("/", "-")
        self._make(host.WorkerHost, actor, each, reserved, 0, msgspec.to_builtins(launch), log)

    def _make(self, kind: type, name: str, need: Need, reserved: Any, bundle: int, *arguments: Any) -> None:
        """An actor on one of the reserved nodes, unless there is one of this name."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        try:
            self._ray.get_actor(name, namespace=NAMESPACE)
            return
        except ValueError:
            pass
        wanted = resources(need)
        others = {other: amount for other, amount in wanted.items() if other not in ("CPU", "GPU", "memory")}
        self._handles[name] = (
            self._ray.remote(kind)
            .options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                max_restarts=-1,
                num_cpus=need.cpus,
                num_gpus=need.gpus,
                memory=need.memory or None,
                resources=others or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(reserved, placement_group_bundle_index=bundle),
            )
            .remote(*arguments)
        )

    def _best_node(self, need: Need, siblings: Sequence[str]) -> str | None:
        from ray.util import placement_group_table

        used: dict[str, int] = {}
        for found in placement_group_table().values():
            if found["name"] in siblings and found["state"] != "REMOVED":
                for node_id in found["bundles_to_node_id"].values():
                    used[node_id] = used.get(node_id, 0) + 1
        return best_node(need, self.nodes(), used)

    def call(self, actor: str, method: str, amount: float, launch: Launch | None) -> list[str]:
        """One of the actor's methods. Raises AgentError: it does not answer."""
        arguments: dict[str, list[Any]] = {
            "logs": [int(amount)],
            "stop": [amount],
            "restart": [],
            "update": [msgspec.to_builtins(launch)],
        }
        try:
            remote = getattr(self._handle(actor), method)
            answer = self._ray.get(remote.remote(*arguments[method]), timeout=_METHOD_S)
        except Exception as error:
            self._handles.pop(actor, None)
            raise AgentError(f"The cluster's node does not answer for it: {_plain(error)}") from None
        return [str(line) for line in answer or ()]

    def remove(self, actor: str) -> None:
        """End the actor and those of its further nodes, and give back what was reserved for them."""
        from ray.util import list_named_actors
        from ray.util.placement_group import get_placement_group, remove_placement_group

        parts = sorted(str(name) for name in list_named_actors() if str(name).startswith(f"{actor}#"))
        for name in (actor, *parts):
            self._handles.pop(name, None)
            self._asked.pop(name, None)
            with contextlib.suppress(ValueError):
                self._ray.kill(self._ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
        try:
            reserved = get_placement_group(actor)
        except Exception:
            return
        remove_placement_group(reserved)


def best_node(need: Need, nodes: Sequence[Node], used: dict[str, int]) -> str | None:
    """Of the nodes with room, one with the fewest workers of the same model, then the most free CPUs."""
    able = [node for node in nodes if fits(need, node.free)]
    if not able:
        return None
    return min(able, key=lambda node: (used.get(node.id, 0), -node.free.get("CPU", 0.0))).id


def _is_placed(found: dict[str, Any] | None) -> bool:
    return found is not None and found["state"] == "CREATED"


def _seen(found: dict[str, Any] | None, actor: bool, answer: HostStatus | str | None, parts: int) -> Seen:
    nodes = list(found["bundles_to_node_id"].values()) if found is not None else []
    return Seen(
        group=str(found["state"]) if found is not None else "",
        node_id=str(nodes[0]) if nodes else "",
        actor=actor,
        parts=parts,
        status=answer if isinstance(answer, HostStatus) else None,
        problem=answer if isinstance(answer, str) else "",
    )


def _plain(error: BaseException) -> str:
    """Ray's words without its traceback from another machine."""
    text = str(error).strip() or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "mismatch" in text:
        return " ".join(lines)[:500]
    return (lines[-1] if "Traceback" in text or text.startswith("\x1b") else lines[0])[:500]


def _hint_for(error: BaseException) -> str:
    if "mismatch" in str(error):
        return "Ray and Python must be the same on this machine and on the cluster: pip install 'ray[client]==VERSION'."
    return "Its log: `fcd daemon logs`, and cluster.log beside it."
