"""Daemons that this one has joined: its own models are offered there, as those of one worker with many models.

Only models of this machine and of workers that are no daemons are offered, so no request can come back here by way of
others. Rings of daemons are refused all the same: each answer of a head tells its id and those of its own heads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2 as httpx
import msgspec

from daemon.access import is_loopback, split_join_path
from daemon.controller.hub import Subscription
from daemon.controller.registry import DAEMON
from daemon.store import neighbours
from daemon.store.neighbours import JoinedHead
from daemon.worker.address import own_address, url_for
from fcd import __version__
from fcd.errors import ApiError, FcdError, api_error_from_body, invalid
from fcd.wire.controller import (
    FcdExtension,
    HeartBeat,
    HeartBeatReply,
    RegisterWorker,
    WorkerStatus,
)
from fcd.wire.neighbours import Head

if TYPE_CHECKING:
    from daemon.context import DaemonContext
    from daemon.controller.controller import Controller

log = logging.getLogger("fcd.controller")

ID_HEADER = "X-Fcd-Daemon"
"""The id of the daemon that answers, then those of the daemons above it."""
_TIMEOUT_S = 15.0
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_SETTLE_S = 0.3
_LEAVE_S = 2.0
_MOST_NAMES = 256
_MOST_HEADS = 16
_MOST_IDS = 64


class Heads:
    """The joined daemons."""

    def __init__(self, context: DaemonContext, controller: Controller) -> None:
        self.id = secrets.token_hex(8)
        self._context = context
        self._controller = controller
        self._links: dict[str, Link] = {}
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Join again those of earlier days."""
        for head in await self._context.store.run(neighbours.heads):
            self._open(head).begin()

    async def close(self) -> None:
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links))

    def list(self) -> list[Head]:
        return [link.shown() for link in self._links.values()]

    @property
    def ancestors(self) -> set[str]:
        """Ids of the daemons above this one."""
        return {name for link in self._links.values() for name in link.ids}

    def is_above(self, daemon_id: str) -> bool:
        """Whether a daemon is this one, or one above it."""
        return daemon_id == self.id or daemon_id in self.ancestors

    def headers(self) -> dict[str, str]:
        """What answers to workers say of this daemon."""
        return {ID_HEADER: " ".join([self.id, *sorted(self.ancestors)][:_MOST_IDS])}

    async def join(self, url: str, token: str) -> Head:
        """Offer this daemon's models at another, now and after every restart.

        Raises:
            ApiError: 400 or 409 when it cannot be, 502 when the other daemon does not take it.
        """
        async with self._changing:
            head = _head(url, token)
            if head.url not in self._links and len(self._links) >= _MOST_HEADS:
                raise ApiError(429, f"{_MOST_HEADS} daemons are joined, as many as may be.", code="overloaded")
            before = self._links.pop(head.url, None)
            if before is not None:
                await before.close()
            link = self._open(head)
            try:
                await link.register()
            except BaseException:
                del self._links[head.url]
                await link.close()
                if before is not None:
                    self._open(before.head).begin()
                raise
            await self._context.store.run(lambda db: neighbours.save_head(db, head, time.time()))
            link.begin()
            return link.shown()

    async def leave(self, url: str) -> None:
        """Raises ApiError 404 for one that is not joined."""
        async with self._changing:
            wanted = url.rstrip("/")
            found = await self._context.store.run(lambda db: neighbours.delete_head(db, wanted))
            link = self._links.pop(wanted, None)
            if link is not None:
                await link.close()
            if not found and link is None:
                raise ApiError(404, f"This daemon has not joined {wanted[:200]}.", code="not_found")

    def _open(self, head: JoinedHead) -> Link:
        link = self._links[head.url] = Link(head, self._context, self._controller, lambda: self.id)
        return link


class Link:
    """One head: registers there, beats, and registers again when the models change."""

    def __init__(
        self, head: JoinedHead, context: DaemonContext, controller: Controller, own_id: Callable[[], str]
    ) -> None:
        self.head = head
        self.ids: list[str] = []
        self._context = context
        self._controller = controller
        self._own_id = own_id
        self._key = context.security.issue_peer_key(f"head {head.url}")
        self._http = httpx.AsyncClient(
            timeout=_TIMEOUT_S, headers={"Authorization": f"Bearer {head.token}"}, trust_env=False
        )
        self._task: asyncio.Task[None] | None = None
        self._offered: list[str] | None = None
        self._error = ""
        self._refused = False

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._offered is not None:
            # The key is about to be worth nothing: the head should not send requests with it.
            with contextlib.suppress(ApiError, TimeoutError):
                async with asyncio.timeout(_LEAVE_S):
                    await self._post("/register_worker", self._registration(self._own_url(), []))
        self._context.security.withdraw_peer_key(self._key)
        await self._http.aclose()

    def shown(self) -> Head:
        if self._offered is not None:
            return Head(self.head.url, "joined", list(self._offered))
        return Head(self.head.url, "refused" if self._refused else "joining", error=self._error)

    async def register(self) -> None:
        """Offer the models that there are now.

        Raises:
            ApiError: what the head, or this daemon, has against it.
        """
        names = offered_models(self._controller)
        url = self._own_url()
        self._offered = None
        answer = await self._post("/register_worker", self._registration(url, names))
        if answer.status_code >= 300:
            refusal = api_error_from_body(answer.status_code, _decoded(answer))
            self._refused = answer.status_code < 500
            raise ApiError(
                answer.status_code if answer.status_code in (409, 429) else 502,
                f"{self.head.url} refused (HTTP status {answer.status_code}): {refusal.message}",
                code="join_refused",
            )
        if not self.ids:
            raise ApiError(502, f"{self.head.url} is not a daemon of fcd.", code="join_refused")
        self._refused, self._error, self._offered = False, "", names
        log.info("joined %s with %d models", self.head.url, len(names))

    def _registration(self, url: str, names: list[str]) -> RegisterWorker:
        """What the head is told; without names, that there is nothing for it any more."""
        return RegisterWorker(
            worker_name=url,
            check_heart_beat=True,
            worker_status=WorkerStatus(names, 1, len(self._context.active)),
            fcd=FcdExtension(
                openai_url=url,
                engine=DAEMON,
                device="",
                version=__version__,
                api_key=self._key,
                daemon_id=self._own_id(),
            ),
        )

    async def _run(self) -> None:
        with self._controller.hub.subscribe() as changes:
            failures = 0
            while True:
                try:
                    await self._keep()
                    failures = 0
                    pause = self._context.settings.worker.heartbeat_s
                except ApiError as error:
                    if error.message != self._error:
                        log.warning("not joined: %s", error.message)
                    self._error = error.message
                    pause = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                    failures += 1
                try:
                    async with asyncio.timeout(pause):
                        if not await _models_changed(changes):
                            return  # the daemon stops
                except TimeoutError:
                    continue
                # What changes rarely changes alone.
                await asyncio.sleep(_SETTLE_S)

    async def _keep(self) -> None:
        """Register when that is needed, else beat."""
        if self._offered is None or self._offered != offered_models(self._controller):
            await self.register()
            return
        answer = await self._post("/receive_heart_beat", HeartBeat(self._own_url(), len(self._context.active)))
        known = False
        with contextlib.suppress(msgspec.MsgspecError):
            known = msgspec.json.decode(answer.content, type=HeartBeatReply).exist
        if not known:
            await self.register()

    async def _post(self, path: str, body: msgspec.Struct) -> httpx.Response:
        try:
            answer = await self._http.post(
                self.head.url + path,
                content=msgspec.json.encode(body),
                headers={"Content-Type": "application/json"},
            )
        except httpx.HTTPError as error:
            raise ApiError(
                502, f"{self.head.url} does not answer: {str(error) or type(error).__name__}.", code="join_failed"
            ) from None
        if ID_HEADER in answer.headers:
            self.ids = answer.headers[ID_HEADER].split()[:_MOST_IDS]
        if self._own_id() in self.ids:
            self._offered, self._refused = None, True
            raise ApiError(409, f"{self.head.url} has joined this daemon, or is it: a ring.", code="loop")
        return answer

    def _own_url(self) -> str:
        """How the head reaches this daemon.

        Raises:
            ApiError: 409, it cannot.
        """
        own, host = urlsplit(self._context.url), self._context.settings.daemon.host
        remote = urlsplit(self.head.url).hostname or ""
        if is_loopback(host):
            if is_loopback(remote):
                return self._context.url
            raise ApiError(
                409,
                f"{remote} could not reach this daemon, which listens on {host} only. Let it listen on an address that "
                "others reach: `fcd key create`, then `fcd daemon restart --host 0.0.0.0`.",
                code="not_reachable",
            )
        if host not in ("0.0.0.0", "::", ""):
            return self._context.url
        try:
            return url_for(own_address(remote), own.port or 80)
        except FcdError as error:
            raise ApiError(502, str(error), code="not_reachable") from None


def offered_models(controller: Controller) -> list[str]:
    """What other daemons are offered: all but what daemons offer here. Those that run come first, and stay if there are
    too many."""
    behind_daemons: set[str] = set()
    others: set[str] = set()
    for record in controller.registry.all():
        (behind_daemons if record.fcd.engine == DAEMON else others).update(record.status.model_names)
    models = [
        model
        for model in controller.models()
        if model.source != "worker" or (model.name in others and model.name not in behind_daemons)
    ]
    models.sort(key=lambda model: (model.state != "ready", model.name))
    return sorted(model.name for model in models[:_MOST_NAMES])


async def _models_changed(changes: Subscription) -> bool:
    """Wait until the models changed; False when nothing will change any more."""
    async for event in changes:
        if event.type == "models":
            return True
    return False


def _head(url: str, token: str) -> JoinedHead:
    """The head's URL without what a person may have copied with it."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in url:
        raise invalid("url", "A daemon's URL is like http://host:8000.")
    joined = split_join_path(parts.path)
    if joined is not None:
        token, path = token or joined[0], ""
    else:
        path = parts.path.rstrip("/")
    if not token or not all("!" <= character <= "~" for character in token):
        raise invalid("token", "A join token of the other daemon is needed: `fcd token create` there makes one.")
    return JoinedHead(f"{parts.scheme}://{parts.netloc}{path}", token)


def _decoded(answer: httpx.Response) -> object:
    try:
        return msgspec.json.decode(answer.content)
    except msgspec.MsgspecError:
        return answer.text[:300]
