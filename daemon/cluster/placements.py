"""The daemon's workers on clusters: asked for, remembered over restarts, shown, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import msgspec

from daemon.cluster.asked import arguments_of, can_spread, cluster_of, need_of, spread
from daemon.cluster.keeper import Keeper, Placed
from daemon.cluster.link import AgentLink, Cluster
from daemon.cluster.messages import AgentError, HostStatus, Node
from daemon.cluster.reasons import nodes_for
from daemon.cluster.way_back import controller_url
from daemon.controller.registry import Registry
from daemon.security import Caller
from daemon.store import placements as rows
from daemon.store.placements import Placement
from daemon.supervisor.launch import LaunchSpec, worker_name
from daemon.supervisor.supervisor import Supervisor
from fcd.errors import ApiError, NotFound
from fcd.wire.admin import LoadRequest, WorkerInfo

if TYPE_CHECKING:
    from daemon.context import DaemonContext

_LOOK_S = 10.0
_POLL_S = 0.1
_MOST_PLACED = 256
_COMING = ("starting", "loading", "backoff")
_HTTP_STATUS = {"no_ray": 501, "not_reachable": 409, "cluster_failed": 502}


class Placements:
    """What clusters run for this daemon.

    Args:
        changed: called with a worker's name when what is shown of it may have changed.
        gone: called with the name of one that is no more.
        make_cluster: the way to a cluster; a real one is an agent process.
    """

    def __init__(
        self,
        context: DaemonContext,
        supervisor: Supervisor,
        registry: Registry,
        *,
        changed: Callable[[str], None],
        gone: Callable[[str], None],
        make_cluster: Callable[[str], Cluster] | None = None,
        own_addresses: Callable[[], Collection[str]] | None = None,
    ) -> None:
        self._context = context
        self._supervisor = supervisor
        self._registry = registry
        self._on_change = changed
        self._on_gone = gone
        self._make_cluster = make_cluster or self._agent
        self._own_addresses = own_addresses or machine_addresses
        self._placed: dict[str, Placed] = {}
        self._keepers: dict[str, Keeper] = {}
        self._prefix = f"fcd/{secrets.token_hex(4)}/"
        self._changing = asyncio.Lock()
        self._loaded = asyncio.Event()

    # Life

    async def start(self) -> None:
        """Look after those of earlier days: what still runs is adopted."""
        for placement in await self._context.store.run(rows.placements):
            self._placed[placement.name] = Placed(placement)
            self._prefix = placement.actor.rpartition("/")[0] + "/"
        self._loaded.set()
        for cluster in {each.placement.cluster for each in self._placed.values()}:
            self._keeper(cluster).begin()

    async def close(self) -> None:
        """Let the clusters be: what runs there goes on."""
        keepers, self._keepers = list(self._keepers.values()), {}
        await asyncio.gather(*(keeper.close() for keeper in keepers))

    # What people ask

    async def place(self, spec: LaunchSpec, request: LoadRequest) -> WorkerInfo:
        """Have a model run on a cluster, with as many workers as are asked for; the first of them.

        Raises:
            ApiError: 400 for what cannot be placed, 409 for what is placed otherwise, 50x for a cluster that cannot be
                used; with the next step.
        """
        asked = request.place
        assert asked is not None
        cluster, need = cluster_of(asked.on), need_of(asked, spec)
        models = tuple(dict.fromkeys((*spec.all_names, *spec.options.lora_modules)))
        async with self._changing:
            keeper = self._keeper(cluster)
            try:
                await keeper.connect()
            except AgentError as error:
                await self._drop_if_empty(cluster)
                raise _as_api_error(error) from None
            there = [
                each.placement
                for each in self._on(cluster)
                if each.placement.models == models and not each.placement.leaving
            ]
            need = spread(need, spec, keeper.nodes, there[0].need if there else None)
            arguments = arguments_of(spec, need)
            for placement in there:
                if (placement.need, placement.arguments) != (need, arguments):
                    raise ApiError(
                        409,
                        f"'{spec.name}' runs there with other options: `fcd worker stop {placement.name}` first.",
                        code="placed_otherwise",
                    )
            wanted = request.replicas or max(1, len(there))
            for placement in there[wanted:]:
                await self._leave(self._placed[placement.name])
            names = [each.name for each in there[:wanted]]
            for _ in range(wanted - len(names)):
                shape = nodes_for(need, keeper.nodes, spreads=can_spread(spec)) or 1
                new = Placement("", cluster, "", models, arguments, need, can_spread(spec), shape)
                names.append(await self._enter(new))
            keeper.begin()
        await keeper.look_soon(_LOOK_S)
        shown = self.shown(names[0], None)
        assert shown is not None
        return shown

    async def stop(self, name: str) -> None:
        """End one for good; it is shown until nothing of it is left on the cluster."""
        async with self._changing:
            await self._leave(self._placed[name])

    async def restart(self, name: str) -> None:
        """Raises ApiError 502: the cluster does not answer for it."""
        placed = self._placed[name]
        try:
            await self._keeper(placed.placement.cluster).restart(placed.placement.actor)
        except AgentError as error:
            raise _as_api_error(error) from None

    async def log_lines(self, name: str, lines: int) -> list[str]:
        """The end of its log, from the node. Raises ApiError 502."""
        placed = self._placed[name]
        try:
            return await self._keeper(placed.placement.cluster).logs(placed.placement.actor, lines)
        except AgentError as error:
            raise _as_api_error(error) from None

    def __contains__(self, name: str) -> bool:
        return name in self._placed

    def names(self) -> list[str]:
        return list(self._placed)

    def has_model(self, model: str) -> bool:
        """Whether a cluster is to run workers for it."""
        placed = (each.placement for each in self._placed.values())
        return any(model in placement.models and not placement.leaving for placement in placed)

    def shown(self, name: str, registered: WorkerInfo | None) -> WorkerInfo | None:
        """One worker for people: what the registry says of it, completed with what the cluster says."""
        placed = self._placed.get(name)
        if placed is None:
            return registered
        placement, status = placed.placement, placed.seen.status if placed.seen is not None else None
        info = registered or WorkerInfo(name=name, models=list(placement.models), state=placed.state, local=False)
        info.on = placement.cluster
        # The node knows first that its worker has ended; that it can be reached, only the registry knows.
        gone = status is not None and status.state != "ready" and not placement.leaving
        if registered is None or gone or info.state not in ("ready", "loading"):
            info.state, info.error = placed.state, placed.reason or info.error
            info.progress = status.progress if status is not None else None
        if status is not None:
            info.restarts, info.pid = status.restarts, status.pid
            info.node = ", ".join([status.node, *(part.node for part in status.parts if part.node)])
            info.notes = [*info.notes, *_nodes_note(placed, status)]
            info.started_at = status.started_at
        return info

    async def coming(self, model: str) -> None:
        """Wait until a worker of this model that a cluster is bringing has registered; at once when none is.

        Raises:
            ApiError: 503, saying why none comes.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._context.settings.daemon.first_byte_s
        while True:
            mine = [each for each in self._placed.values() if model in each.placement.models]
            mine = [each for each in mine if not each.placement.leaving]
            if not mine or any(each.placement.name in self._registry for each in mine):
                return
            if loop.time() >= deadline or not any(each.state in _COMING for each in mine):
                reason = mine[0].reason or "It is still starting."
                raise ApiError(
                    503,
                    f"'{model}' does not run on the cluster yet ({mine[0].state}): {reason}",
                    code="no_worker",
                    retry_after=10,
                )
            await asyncio.sleep(_POLL_S)

    # What registration asks

    async def of_token(self, caller: Caller, pid: int) -> Placement | None:
        """The placement whose worker, with this process id, holds this join token. A daemon that starts again may be
        asked before it knows.

        Raises:
            ApiError: 503, the one of this name is another and serves: this may be left over on a node that was cut off.
        """
        if caller.kind != "token":
            return None
        await self._loaded.wait()
        placed = next((each for each in self._placed.values() if each.placement.token_id == caller.name), None)
        if placed is None:
            return None
        placement, status = placed.placement, placed.seen.status if placed.seen is not None else None
        keeper = self._keepers.get(placement.cluster)
        known = status is not None and keeper is not None and not keeper.problem
        if pid and known and status is not None and status.pid not in (0, pid) and self.is_serving(placement.name):
            assert keeper is not None
            keeper.poke()
            raise ApiError(
                503, f"The cluster runs '{placement.name}' as another process.", code="superseded", retry_after=2
            )
        return placement

    # What keepers ask

    def placed_on(self, cluster: str) -> list[Placed]:
        return self._on(cluster)

    async def new_token(self, placed: Placed) -> str:
        before, name = placed.placement.token_id, placed.placement.name
        token, info = await self._context.security.create("token", name=f"worker {name}", scope="join")
        placed.placement = msgspec.structs.replace(placed.placement, token_id=info.id)
        await self._save(placed.placement)
        await self._revoke(before)
        return token

    async def reshape(self, placed: Placed, nodes: int) -> None:
        placed.placement = msgspec.structs.replace(placed.placement, nodes=nodes)
        await self._save(placed.placement)

    async def forget(self, placed: Placed) -> None:
        placement = placed.placement
        await self._revoke(placement.token_id)
        await self._context.store.run(lambda db: rows.delete_placement(db, placement.name))
        self._placed.pop(placement.name, None)
        self._supervisor.forget(placement.name)
        self._on_gone(placement.name)

    def changed(self, placed: Placed) -> None:
        self._on_change(placed.placement.name)

    def is_serving(self, name: str) -> bool:
        worker = self._supervisor.state.workers.get(name)
        return worker is not None and worker.state == "ready" and worker.healthy

    def controller_url(self, nodes: Sequence[Node]) -> str:
        context = self._context
        return controller_url(context.url, context.settings.daemon.host, nodes, self._own_addresses())

    # Inside

    def _on(self, cluster: str) -> list[Placed]:
        return [each for each in self._placed.values() if each.placement.cluster == cluster]

    def _keeper(self, cluster: str) -> Keeper:
        if cluster not in self._keepers:
            self._keepers[cluster] = Keeper(
                cluster,
                self._make_cluster(cluster),
                self,
                prefix=self._prefix,
                drain_s=lambda: self._context.settings.daemon.drain_s,
                on_empty=lambda: self._drop_when_empty(cluster),
            )
        return self._keepers[cluster]

    def _agent(self, cluster: str) -> Cluster:
        paths = self._context.paths
        return AgentLink(cluster, log=paths.logs / "cluster.log", cwd=paths.runtime)

    async def _drop_when_empty(self, cluster: str) -> bool:
        """Not while something is being placed there: that would be left with a keeper that nobody knows."""
        async with self._changing:
            await self._drop_if_empty(cluster)
            return cluster not in self._keepers

    async def _drop_if_empty(self, cluster: str) -> None:
        """No agent for a cluster on which nothing of ours is."""
        if not self._on(cluster) and cluster in self._keepers:
            await self._keepers.pop(cluster).close()

    async def _enter(self, new: Placement) -> str:
        """Name it and write it down: before it is placed, so that a daemon killed in between knows of it."""
        if len(self._placed) >= _MOST_PLACED:
            raise ApiError(429, f"{_MOST_PLACED} workers are on clusters, as many as may be.", code="overloaded")
        base, number = f"{worker_name(new.models[0])}-ray", 1
        while f"{base}-{number}" in self._placed or f"{base}-{number}" in self._registry:
            number += 1
        name = f"{base}-{number}"
        placement = msgspec.structs.replace(new, name=name, actor=f"{self._prefix}{name}")
        await self._save(placement)
        self._placed[name] = Placed(placement)
        return name

    async def _leave(self, placed: Placed) -> None:
        placed.placement = msgspec.structs.replace(placed.placement, leaving=True)
        await self._save(placed.placement)
        # It may not come back under its name while it finishes what it does.
        await self._revoke(placed.placement.token_id)
        self._supervisor.forget(placed.placement.name)
        placed.state = "stopping"
        self._on_change(placed.placement.name)
        keeper = self._keeper(placed.placement.cluster)
        keeper.begin()
        keeper.poke()

    async def _save(self, placement: Placement) -> None:
        now = time.time()
        await self._context.store.run(lambda db: rows.save_placement(db, placement, now))

    async def _revoke(self, token_id: str) -> None:
        if token_id:
            with contextlib.suppress(NotFound):
                await self._context.security.revoke("token", token_id)


def _nodes_note(placed: Placed, status: HostStatus) -> list[str]:
    """How each node of several stands."""
    if not status.parts:
        return []
    own = f"{status.node} {placed.state if status.state != 'ready' else 'ready'}"
    further = [
        f"{part.node or 'a node'} {part.state}" + (f" ({part.error})" if part.error else "") for part in status.parts
    ]
    return [f"Over {1 + len(status.parts)} nodes: {'; '.join([own, *further])}."]


def machine_addresses() -> set[str]:
    """All addresses of this machine."""
    import psutil

    return {address.address.partition("%")[0] for found in psutil.net_if_addrs().values() for address in found}


def _as_api_error(error: AgentError) -> ApiError:
    return ApiError(_HTTP_STATUS.get(error.code, 503), f"{error.message} {error.hint}".strip(), code=error.code)
