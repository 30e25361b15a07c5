"""Registration and heartbeats: who may enter the table, as what, and at which address."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import httpx2 as httpx
import msgspec

from daemon.access import is_loopback
from daemon.controller.models import check_names
from daemon.controller.registry import Record, Registry, images_of, target_of
from daemon.dispatch import Target
from daemon.security import Caller
from daemon.store.placements import Placement
from daemon.supervisor.probe import authorization, base_url
from daemon.supervisor.supervisor import Supervisor
from fcd.errors import ApiError, invalid
from fcd.wire.controller import EngineGauges, FcdExtension, HeartBeat, RegisterWorker, WorkerStatus

log = logging.getLogger("fcd.controller")

_STATUS_TIMEOUT_S = 5.0
_MOST_NAMES = 256
_MOST_FIELDS = 4096
_MOST_FOREIGN = 4096
_MOST_STATUS_BYTES = 1024 * 1024
_NAME_LIMIT = 512


class Join:
    """The door of the registry."""

    def __init__(
        self,
        supervisor: Supervisor,
        registry: Registry,
        is_reserved: Callable[[str], bool],
        is_above: Callable[[str], bool] = lambda _: False,
        placed: Callable[[Caller, int], Awaitable[Placement | None]] | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._is_reserved = is_reserved
        self._is_above = is_above
        self._placed = placed
        self._polls: set[asyncio.Task[None]] = set()

    async def register(self, body: RegisterWorker, caller: Caller, peer: str) -> None:
        """Enter a worker. One that gives no status and does not answer for it is left out, as FastChat does.

        Raises:
            ApiError: 400 for what cannot be used, 403 for an address or a name that is not its own, 409 for a model
                name that belongs to this machine.
        """
        if caller.kind == "worker":
            self._register_local(body, caller.name)
            return
        known = self._registry.by_url(body.worker_name)
        if known is not None and (known.local or known.attached):
            raise ApiError(409, f"{body.worker_name} is a worker of this daemon.", code="name_taken")
        if body.fcd is not None and body.fcd.worker_id:
            raise ApiError(403, "'fcd.worker_id' names a worker that this daemon started.", code="forbidden")
        if _is_leaving(body):
            if known is not None and known.fcd.daemon_id == (body.fcd and body.fcd.daemon_id):
                self._supervisor.forget(known.name)
                log.info("the daemon %s left", known.name)
            return
        pid = body.fcd.pid if body.fcd is not None else 0
        placed = await self._placed(caller, pid) if self._placed is not None else None
        name = placed.name if placed is not None else self._registry.name_for(body.worker_name)
        target = _foreign_target(name, body)
        await _check_address(target, peer)
        status = body.worker_status
        if status is None:
            key = body.fcd.api_key if body.fcd is not None else ""
            status = await poll_status(target_of(name, body.worker_name, dialect="fastchat", api_key=key))
            if status is None:
                log.warning("%s registered without a status and does not answer for it", body.worker_name)
                return
        if body.fcd is not None and body.fcd.daemon_id:
            status = self._check_daemon(body.fcd.daemon_id, status)
        if placed is not None:
            _check_placed(placed, status)
        else:
            self._check_models(status, caller)
        if body.fcd is not None:
            await _check_reachable(target)
        if known is None and len(self._registry.all()) >= _MOST_FOREIGN:
            raise ApiError(429, f"{_MOST_FOREIGN} workers are registered, as many as may be.", code="overloaded")
        record = Record(
            name=name,
            url=body.worker_name,
            local=False,
            status=status,
            target=_strict(
                _named(target, status.model_names, body.fcd.served_as if body.fcd is not None else ""),
                body.fcd,
                multimodal=body.multimodal,
            ),
            multimodal=body.multimodal,
            check_beat=body.check_heart_beat,
            fcd=body.fcd or FcdExtension(dialect="fastchat", engine="fastchat", device=""),
            registered_at=time.time(),
        )
        if known is not None and known.name != name:
            # Its address was another's before; that one is gone.
            self._supervisor.forget(known.name)
        self._supervisor.register(record)
        log.info("worker %s registered for %s", name, ", ".join(status.model_names))
        if known is not None and body.fcd is None and set(known.status.model_names) != set(status.model_names):
            # A multi-model worker may register again with one of its models only: ask it for all.
            self._later(self._take_union(record, caller))

    def _register_local(self, body: RegisterWorker, name: str) -> None:
        local = self._supervisor.local.get(name)
        said = body.fcd
        if local is None or said is None or said.worker_id != name:
            raise ApiError(403, f"This token is for the worker '{name}' alone.", code="forbidden")
        socket_path = local.socket if said.socket == local.socket else ""
        try:
            target = target_of(name, said.openai_url or body.worker_name, socket=socket_path, api_key=said.api_key)
        except ValueError as error:
            raise invalid("worker_name", str(error)) from None
        target = _strict(_named(target, local.spec.all_names, said.served_as), said, multimodal=body.multimodal)
        if not is_loopback(target.host):
            raise ApiError(403, f"A worker of this machine is reached on it, not at {target.host}.", code="forbidden")
        speed = body.worker_status.speed if body.worker_status is not None else 1
        record = Record(
            name=name,
            url=body.worker_name,
            local=True,
            status=WorkerStatus(list(local.spec.all_names), speed, 0),
            target=target,
            multimodal=body.multimodal,
            fcd=said,
            registered_at=time.time(),
        )
        self._supervisor.register(record)

    def beat(self, body: HeartBeat, caller: Caller) -> bool:
        """Whether the worker is known; one that is not has to register in full."""
        record = self._registry.by_url(body.worker_name)
        if record is None or record.attached:
            return False
        if record.local and (caller.kind, caller.name) != ("worker", record.name):
            return False
        worker = self._supervisor.state.workers.get(record.name)
        if worker is None or (worker.state == "lost" and not record.local):
            return False
        status = msgspec.structs.replace(record.status, queue_length=max(0, body.queue_length))
        gauges = body.fcd if body.fcd is not None else EngineGauges()
        self._supervisor.heard(msgspec.structs.replace(record, status=status, gauges=gauges))
        return True

    async def refresh(self) -> None:
        """Ask every worker elsewhere for its status again and forget those that do not answer."""
        foreign = [each for each in self._registry.all() if not (each.local or each.attached or each.fcd.daemon_id)]
        statuses = await asyncio.gather(*(poll_status(_status_target(each)) for each in foreign))
        for record, status in zip(foreign, statuses, strict=True):
            if self._registry.get(record.name) is not record:
                continue
            if status is None:
                self._supervisor.forget(record.name)
            elif not self._may_serve(status):
                log.warning("%s now claims models of this machine", record.url)
                self._supervisor.forget(record.name)
            else:
                self._supervisor.register(msgspec.structs.replace(record, status=status))

    async def _take_union(self, record: Record, caller: Caller) -> None:
        status = await poll_status(_status_target(record))
        if status is None or self._registry.get(record.name) is not record:
            return
        try:
            self._check_models(status, caller)
        except ApiError as error:
            log.warning("the models of %s cannot be taken: %s", record.url, error.message)
            return
        self._supervisor.register(msgspec.structs.replace(record, status=status))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._polls.add(task)
        task.add_done_callback(self._polls.discard)

    def _check_daemon(self, daemon_id: str, status: WorkerStatus) -> WorkerStatus:
        """What a whole daemon may serve here: all that this machine has not itself.

        Raises:
            ApiError: 409 for one that this daemon has joined itself, and for one that brings nothing new.
        """
        if self._is_above(daemon_id):
            raise ApiError(
                409, "This daemon has joined that one, by itself or by way of others: a ring is refused.", code="loop"
            )
        names = [name for name in status.model_names if not self._is_taken(name)]
        if not names:
            raise ApiError(409, "It has no model that this daemon has not itself.", code="nothing_new")
        return msgspec.structs.replace(status, model_names=names)

    def _check_models(self, status: WorkerStatus, caller: Caller) -> None:
        check_names(status.model_names, most=_MOST_NAMES)
        if caller.kind == "admin":
            return
        for name in status.model_names:
            if self._is_taken(name):
                raise ApiError(
                    409,
                    f"'{name}' is a model of this machine, and a worker elsewhere may not answer to its name. "
                    "Start it with another one: --model-names.",
                    code="name_taken",
                    param="model_names",
                )

    def _may_serve(self, status: WorkerStatus) -> bool:
        try:
            check_names(status.model_names, most=_MOST_NAMES)
        except ApiError:
            return False
        return not any(self._is_taken(name) for name in status.model_names)

    def _is_taken(self, name: str) -> bool:
        return self._is_reserved(name)


def _check_placed(placed: Placement, status: WorkerStatus) -> None:
    """Raises ApiError 403: a worker that was placed on a cluster brings another model than it was placed for."""
    for name in status.model_names:
        if name not in placed.models:
            raise ApiError(
                403, f"This token is for {', '.join(placed.models)} alone, not for '{name[:80]}'.", code="forbidden"
            )


def _is_leaving(body: RegisterWorker) -> bool:
    """A daemon that offers nothing takes back what it offered."""
    offered = body.worker_status
    return body.fcd is not None and bool(body.fcd.daemon_id) and offered is not None and not offered.model_names


def _named(target: Target, names: Iterable[str], served_as: str) -> Target:
    """Where the server calls its model otherwise than the worker: all of the worker's names mean that one."""
    if not served_as:
        return target
    return msgspec.structs.replace(target, names=dict.fromkeys(names, served_as))


def _strict(target: Target, said: FcdExtension | None, *, multimodal: bool) -> Target:
    """With the names and fields that the worker's server knows, where it told them, and whether it sees images."""
    target = msgspec.structs.replace(target, images=images_of(said, multimodal=multimodal))
    if said is None or not (said.serves or said.fields):
        return target
    if len(said.serves) > _MOST_NAMES or sum(map(len, said.fields.values())) > _MOST_FIELDS:
        raise invalid("fcd", f"'fcd' may hold {_MOST_NAMES} names and {_MOST_FIELDS} fields.")
    return msgspec.structs.replace(target, serves=tuple(said.serves), fields=said.fields)


def _status_target(record: Record) -> Target:
    """FastChat's own routes are at the worker's name, whatever else it has."""
    return target_of(record.name, record.url, dialect="fastchat", api_key=record.target.api_key)


def _foreign_target(name: str, body: RegisterWorker) -> Target:
    """Where requests go: `openai_url` for workers that have one, on the host that the worker's name says."""
    if len(body.worker_name) > _NAME_LIMIT:
        raise invalid("worker_name", f"'worker_name' has at most {_NAME_LIMIT} characters.")
    try:
        own = target_of(name, body.worker_name, dialect="fastchat")
        if body.fcd is None or body.fcd.dialect == "fastchat":
            return own
        target = target_of(name, body.fcd.openai_url or body.worker_name, api_key=body.fcd.api_key)
    except ValueError as error:
        raise invalid("worker_name", str(error)) from None
    if target.host != own.host:
        raise invalid("openai_url", "'openai_url' must be on the host of 'worker_name'.")
    return target


async def _check_address(target: Target, peer: str) -> None:
    """Refuse addresses that are nobody's worker, and loopback addresses that come from another machine.

    Raises:
        ApiError: 400 or 403, saying which flag to set.
    """
    try:
        async with asyncio.timeout(_STATUS_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        raise invalid(
            "worker_name",
            f"The host '{target.host}' of the worker's address is not known here. Set --worker-address to one that is.",
        ) from None
    for entry in found:
        address = ipaddress.ip_address(entry[4][0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified or mapped.is_reserved:
            raise ApiError(403, f"{mapped} is not an address that a worker can have.", code="address_not_allowed")
        if mapped.is_loopback and peer and not is_loopback(peer.removeprefix("::ffff:")):
            raise invalid(
                "worker_name",
                f"The worker says that it is at {target.host}, which from here is this machine. "
                "Start it with --worker-address http://ITS_HOST:PORT.",
            )


async def _check_reachable(target: Target) -> None:
    """Call an fcd worker back: it serves before it registers, so what cannot be reached now cannot be used.

    Raises:
        ApiError: 400, with the flags to set.
    """
    try:
        async with (
            asyncio.timeout(_STATUS_TIMEOUT_S),
            httpx.AsyncClient(verify=target.tls, trust_env=False, follow_redirects=False) as client,
        ):
            answer = await client.get(f"{base_url(target)}/health", headers=authorization(target))
            problem = "" if answer.status_code < 500 else f"HTTP status {answer.status_code}"
    except TimeoutError:
        problem = f"no answer within {_STATUS_TIMEOUT_S:g} s"
    except (httpx.HTTPError, OSError, ValueError) as error:
        problem = str(error) or type(error).__name__
    if problem:
        raise ApiError(
            400,
            f"The worker cannot be reached from here at {base_url(target)} ({problem}). Set --host to an address of "
            "its machine that this one reaches, --worker-address to the URL if it is behind NAT or a proxy, and open "
            "the port in its firewall (--port fixes it).",
            code="worker_unreachable",
            param="worker_name",
        )


async def poll_status(target: Target) -> WorkerStatus | None:
    """A worker's own status; None when it does not answer with one."""
    try:
        async with asyncio.timeout(_STATUS_TIMEOUT_S), httpx.AsyncClient(verify=target.tls, trust_env=False) as client:
            answer = await client.post(f"{base_url(target)}/worker_get_status", headers=authorization(target))
            if answer.status_code != 200 or len(answer.content) > _MOST_STATUS_BYTES:
                return None
            return msgspec.json.decode(answer.content, type=WorkerStatus)
    except (httpx.HTTPError, OSError, TimeoutError, msgspec.MsgspecError, ValueError):
        return None
