"""Follows the load of one model for somebody who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from daemon.controller.hub import Subscription, TooManyWatchers
from daemon.controller.sizes import notes_of
from daemon.supervisor.launch import LaunchSpec
from fcd.settings import Settings, is_profile, profile_of
from fcd.wire.admin import LoadEvent, LoadRequest, Progress, WorkerInfo

if TYPE_CHECKING:
    from daemon.controller.controller import Controller

_MOST_ALIASES = 8
_TOO_MANY = "Too many clients watch already. Nothing was loaded: ask again in a moment."
_UNSEEN = "Too many clients watch. The load goes on: `fcd ps` shows how far it is."


async def follow_load(
    controller: Controller, spec: LaunchSpec, request: LoadRequest, idle_s: float
) -> AsyncGenerator[LoadEvent | None, None]:
    """Progress whenever it changes, then one `ready` or `error`; None after `idle_s` without news."""
    name = request_name(request.model, spec, controller.settings)
    shown: LoadEvent | None = None
    changes: Subscription | None = None
    with ExitStack() as watching:
        while True:
            begun = changes is not None
            if changes is None or changes.closed:
                if controller.closing:
                    yield LoadEvent("error", spec.name, error="The daemon is shutting down.")
                    return
                try:
                    # One whose client did not keep up was let go: what counts is how the load stands now.
                    changes = watching.enter_context(controller.hub.subscribe())
                except TooManyWatchers:
                    yield LoadEvent("error", spec.name, error=_UNSEEN if begun else _TOO_MANY)
                    return
            if not begun:
                controller.begin_load(spec, request)
            event = msgspec.structs.replace(load_status(controller, spec), model=name)
            if event.type == "ready":
                event.notes = notes_of(request.options, spec)
            if event != shown:
                shown = event
                yield event
            if event.type != "progress":
                return
            try:
                async with asyncio.timeout(idle_s):
                    await changes.next()
            except TimeoutError:
                yield None


def request_name(asked: str, spec: LaunchSpec, settings: Settings) -> str:
    """What requests are to call a model that was asked for by a name: that name where it means more than the model
    itself, an adapter or defaults of its own."""
    name = asked
    for _ in range(_MOST_ALIASES):
        name = settings.aliases.get(name, name)
    profile = profile_of(asked, settings)
    if name in spec.options.lora_modules or (profile is not None and is_profile(profile)):
        return asked
    return spec.name


def served_elsewhere(controller: Controller, name: str) -> LoadEvent | None:
    """The `ready` event of a model that only workers elsewhere bring: nothing of that name can be started here."""
    state = controller.supervisor.state
    model = state.models.get(name)
    for each in model.workers if model is not None else ():
        info = controller.worker(each)
        if info is not None and not info.local and state.workers[each].healthy:
            return LoadEvent("ready", name, worker=info)
    return None


async def already(event: LoadEvent) -> AsyncGenerator[LoadEvent | None, None]:
    """A load that had nothing to do."""
    yield event


def load_status(controller: Controller, spec: LaunchSpec) -> LoadEvent:
    """How far a load is now."""
    supervisor = controller.supervisor
    model = supervisor.state.models.get(spec.name)
    names = model.workers if model is not None else ()
    infos = [info for name in names if (info := controller.worker(name)) is not None]
    ready = next((info for info in infos if supervisor.state.workers[info.name].healthy), None)
    if ready is not None:
        return LoadEvent("ready", spec.name, worker=ready)
    coming = next((info for info in infos if info.state in _STAGES), None)
    if coming is not None:
        return LoadEvent("progress", spec.name, progress=coming.progress or Progress(_STAGES[coming.state]))
    if spec.name in supervisor.state.pending:
        return LoadEvent("progress", spec.name, progress=Progress("waiting for memory"))
    broken = next((info for info in infos if info.state in ("backoff", "failed")), None)
    if broken is not None and supervisor.state.workers[broken.name].making_room:
        return LoadEvent("progress", spec.name, progress=Progress("waiting for memory"))
    if broken is not None:
        return LoadEvent("error", spec.name, worker=broken, error=_why(broken))
    reason = supervisor.refusals.get(spec.name) or f"The load of '{spec.name}' was stopped."
    return LoadEvent("error", spec.name, error=reason)


_STAGES = {
    "starting": "starting",
    "loading": "loading",
    "ready": "checking",
    "asleep": "waiting for memory to wake up",
    "stopping": "stopping the one before",
}


def _why(worker: WorkerInfo) -> str:
    where = f" Its log: {worker.log}" if worker.log and worker.log not in worker.error else ""
    return f"{worker.error}{where}"
