"""Looks after one cluster: has placed what is to run there, removes what is not, and says how everything stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from daemon.access import is_loopback
from daemon.cluster.link import Cluster
from daemon.cluster.messages import AgentError, HostStatus, Launch, Node, Seen
from daemon.cluster.reasons import nodes_for, share, state_of
from daemon.store.placements import Placement
from fcd import __version__
from fcd.wire.admin import WorkerState

log = logging.getLogger("fcd.cluster")

_SOON_S = 0.5
_STEADY_S = 3.0
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_STOP_SLACK_S = 10.0
_WAITING = ("PENDING", "RESCHEDULING")
_STEADY: frozenset[WorkerState] = frozenset({"ready", "pending", "failed"})


class Placed(msgspec.Struct):
    """A placement, and what is known of it now."""

    placement: Placement
    state: WorkerState = "starting"
    reason: str = ""
    seen: Seen | None = None
    stop_by: float = 0.0
    """When it is removed though it has not ended by itself; 0: it was not asked to end."""


class Books(Protocol):
    """What a keeper needs of the daemon."""

    def placed_on(self, cluster: str) -> list[Placed]: ...

    async def new_token(self, placed: Placed) -> str:
        """A join token for it; the one before is no longer good."""
        ...

    async def reshape(self, placed: Placed, nodes: int) -> None:
        """It is to be over so many nodes."""
        ...

    async def forget(self, placed: Placed) -> None:
        """Nothing of it is left on the cluster."""
        ...

    def changed(self, placed: Placed) -> None: ...

    def is_serving(self, name: str) -> bool:
        """Whether it has registered and answers."""
        ...

    def controller_url(self, nodes: Sequence[Node]) -> str:
        """Raises AgentError: the nodes cannot reach this daemon."""
        ...


class Keeper:
    """One cluster. Nothing there is ended with it: what runs is found again by the daemon that starts next.

    Args:
        on_empty: called when nothing of the daemon's is on the cluster any more; whether it was let go, and did not get
            something to look after meanwhile.
    """

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        books: Books,
        *,
        prefix: str,
        drain_s: Callable[[], float],
        on_empty: Callable[[], Awaitable[bool]],
    ) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.problem = ""
        self._cluster = cluster
        self._books = books
        self._prefix = prefix
        self._drain_s = drain_s
        self._on_empty = on_empty
        self._url = ""
        self._poke = asyncio.Event()
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def poke(self) -> None:
        """Look at once."""
        self._poke.set()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._cluster.close()

    async def connect(self) -> None:
        """Raises AgentError: the cluster cannot be used, and why."""
        fresh = not self._cluster.connected
        await self._cluster.connect()
        if fresh or not self._url:
            self.nodes = (await self._cluster.picture([], self._prefix)).nodes
            self._url = self._books.controller_url(self.nodes)

    async def look_soon(self, limit_s: float) -> None:
        """Look now and return when that is done, or did not succeed."""
        self._looked.clear()
        self._poke.set()
        try:
            async with asyncio.timeout(limit_s):
                await self._looked.wait()
        except TimeoutError:
            pass

    async def logs(self, actor: str, lines: int) -> list[str]:
        await self.connect()
        return await self._cluster.call(actor, "logs", amount=lines)

    async def restart(self, actor: str) -> None:
        await self.connect()
        await self._cluster.call(actor, "restart")
        self.poke()

    # The loop

    async def _run(self) -> None:
        while True:
            await self._tend_all()
            if await self._on_empty():
                return

    async def _tend_all(self) -> None:
        """Look again and again, until there is nothing to look after."""
        failures = 0
        while self._books.placed_on(self.name):
            self._poke.clear()
            try:
                await self.connect()
                if await self._look():
                    await self._look()  # what became of it is known at once, if there is no room for it
                self.problem, failures, pause = "", 0, self._pause()
            except AgentError as error:
                pause = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                failures += 1
                self._tell(f"{error.message} {error.hint}".strip())
            except Exception:
                log.exception("the cluster %s could not be looked after", self.name)
                pause = _RETRY_S[-1]
            self._looked.set()
            try:
                async with asyncio.timeout(pause):
                    await self._poke.wait()
            except TimeoutError:
                pass

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("cluster %s: %s", self.name, problem)
        self.problem = problem
        for placed in self._books.placed_on(self.name):
            placed.reason = problem
            self._books.changed(placed)

    def _pause(self) -> float:
        steady = all(
            placed.state in _STEADY or self._books.is_serving(placed.placement.name)
            for placed in self._books.placed_on(self.name)
        )
        return _STEADY_S if steady else _SOON_S

    async def _look(self) -> bool:
        """Compare what there is with what is to be; whether something was placed."""
        placed = self._books.placed_on(self.name)
        picture = await self._cluster.picture([each.placement.actor for each in placed], self._prefix)
        self.nodes = picture.nodes
        began = [await self._tend(each, picture.seen.get(each.placement.actor)) for each in placed]
        ours = {each.placement.actor for each in self._books.placed_on(self.name)}
        for actor in picture.seen.keys() - ours - {each.placement.actor for each in placed}:
            log.warning("cluster %s: %s is nobody's, and is removed", self.name, actor)
            await self._cluster.remove(actor)
        return any(began)

    async def _tend(self, placed: Placed, seen: Seen | None) -> bool:
        there = seen is not None and bool(seen.group or seen.actor)
        if placed.placement.leaving:
            await self._lead_out(placed, seen if there else None)
            return False
        if seen is not None and seen.group in _WAITING and await self._reshaped(placed):
            placed.seen = None
            self._poke_later()
            return False
        missing = seen is None or not (seen.group and seen.actor) or seen.parts < placed.placement.nodes - 1
        if missing:
            await self._place(placed, again=placed.seen is not None)
        elif seen is not None and seen.status is not None and not self._can_register(placed, seen.status):
            await self._cluster.call(placed.placement.actor, "update", launch=await self._launch(placed))
        placed.seen = seen
        placement = placed.placement
        state, reason = state_of(seen, placement.need, self.nodes, leaving=False, spreads=placement.spreads)
        if (state, reason) != (placed.state, placed.reason):
            placed.state, placed.reason = state, reason
            log.info("worker %s is %s on %s. %s", placement.name, state, self.name, reason)
        self._books.changed(placed)
        return missing

    async def _reshaped(self, placed: Placed) -> bool:
        """Whether what waits for nodes is taken away, since it would fit over another number of them."""
        placement = placed.placement
        nodes = nodes_for(placement.need, self.nodes, spreads=placement.spreads)
        if nodes in (0, placement.nodes):
            return False
        log.info("worker %s goes over %d nodes of %s instead of %d", placement.name, nodes, self.name, placement.nodes)
        await self._cluster.remove(placement.actor)
        await self._books.reshape(placed, nodes)
        return True

    def _can_register(self, placed: Placed, status: HostStatus) -> bool:
        """Whether the worker knows where the daemon is now, and holds the token that it takes.

        An actor that was adopted may know neither: the daemon has moved, or the cluster has brought the actor back with
        what it was made with, long after its token was replaced.
        """
        return status.controller == self._url and status.token_id in ("", placed.placement.token_id)

    async def _place(self, placed: Placed, *, again: bool) -> None:
        placement = placed.placement
        if again:
            log.warning("worker %s is gone from the cluster %s: it is placed again", placement.name, self.name)
        siblings = [
            each.placement.actor
            for each in self._books.placed_on(self.name)
            if each.placement.models == placement.models and not each.placement.leaving
        ]
        await self._cluster.place(placement.actor, placement.need, await self._launch(placed), siblings)

    async def _launch(self, placed: Placed) -> Launch:
        return Launch(
            arguments=placed.placement.arguments,
            controller=self._url,
            token=await self._books.new_token(placed),
            token_id=placed.placement.token_id,
            version=__version__,
            on_loopback=is_loopback(urlsplit(self._url).hostname or ""),
            gpus=share(placed.placement.need, placed.placement.nodes).gpus,
            parts=tuple(f"{placed.placement.actor}#{number}" for number in range(1, placed.placement.nodes)),
        )

    async def _lead_out(self, placed: Placed, seen: Seen | None) -> None:
        """Ask the worker to end, and when it has, or cannot, remove what was reserved."""
        now = asyncio.get_running_loop().time()
        actor = placed.placement.actor
        if seen is None:
            await self._books.forget(placed)
            return
        placed.seen, placed.state, placed.reason = seen, "stopping", ""
        runs = seen.status is not None and seen.status.state != "stopped"
        if runs and not placed.stop_by:
            placed.stop_by = now + self._drain_s() + _STOP_SLACK_S
            await self._cluster.call(actor, "stop", amount=self._drain_s())
        elif not runs or now >= placed.stop_by:
            await self._cluster.remove(actor)
        self._books.changed(placed)
        self._poke_later()

    def _poke_later(self) -> None:
        asyncio.get_running_loop().call_later(0.2, self._poke.set)
