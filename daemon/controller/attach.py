"""Servers that speak OpenAI's routes, used as workers because this machine's owner said so."""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import msgspec

from daemon.context import DaemonContext
from daemon.controller.models import check_names
from daemon.controller.registry import Record, Registry, images_of, target_of
from daemon.dispatch import Target
from daemon.store import neighbours
from daemon.store.neighbours import Attachment
from daemon.supervisor.probe import authorization, base_url
from daemon.supervisor.supervisor import Supervisor
from fcd.errors import ApiError, api_error_from_body, invalid
from fcd.modalities import llama_entry, says_vision
from fcd.wire.controller import FcdExtension, WorkerStatus
from fcd.wire.neighbours import AttachRequest

log = logging.getLogger("fcd.controller")

ENGINE = "attached"
_ANSWER_S = 15.0
_PROPS_S = 5.0
_MOST_LIST_BYTES = 4 * 1024 * 1024
_MOST_NAMES = 256
_MOST_ATTACHED = 256
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,63}", re.ASCII)


class _Model(msgspec.Struct, frozen=True):
    id: str
    capabilities: Any = None
    architecture: Any = None
    input_modalities: Any = None
    modalities: Any = None
    type: Any = None


class Attachments:
    """Attaches, detaches, and remembers over restarts. Redirects are never followed: the owner named this address."""

    def __init__(self, context: DaemonContext, supervisor: Supervisor, registry: Registry, is_reserved: Any) -> None:
        self._context = context
        self._store = context.store
        self._supervisor = supervisor
        self._registry = registry
        self._is_reserved = is_reserved
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Enter those of earlier days; probes say which of them answer."""
        for attachment in await self._store.run(neighbours.attachments):
            try:
                self._supervisor.register(_record(attachment))
            except ValueError as error:
                log.error("worker %s cannot be attached again: %s", attachment.name, error)

    async def attach(self, request: AttachRequest) -> str:
        """Check a server and enter it; its worker's name.

        Raises:
            ApiError: 400 or 409 for what cannot be entered, 502 for a server that does not answer as it should.
        """
        async with self._changing:
            url = _base(request.url)
            name = request.name or self._registry.name_for(url)
            self._check_name(name, url)
            try:
                target = target_of(name, url, api_key=request.api_key)
            except ValueError as error:
                raise invalid("url", str(error)) from None
            if await asyncio.to_thread(_leads_to, url, self._context.settings.daemon.host, self._context.url):
                raise ApiError(
                    409,
                    f"{url} is this daemon itself. `fcd alias NAME MODEL` gives a model another name.",
                    code="loop",
                    param="url",
                )
            listed = await list_models(target)
            names = _chosen(request.models, listed.names)
            check_names(list(names), most=_MOST_NAMES)
            self._check_free(names)
            vision = request.vision
            if vision is None:
                vision = all(listed.sees(there) for there in names.values()) or await _tells_of_images(target, listed)
            attachment = Attachment(name, url, request.api_key, names, vision)
            await self._store.run(lambda db: neighbours.save_attachment(db, attachment, time.time()))
            before = self._registry.by_url(url)
            if before is not None and before.name != name:
                self._supervisor.forget(before.name)
            self._supervisor.register(_record(attachment))
            log.info("worker %s is attached at %s for %s", name, url, ", ".join(names))
            return name

    async def detach(self, name: str) -> None:
        """Forget one.

        Raises:
            ApiError: 404, or 409 for a worker that was not attached.
        """
        async with self._changing:
            found = await self._store.run(lambda db: neighbours.delete_attachment(db, name))
            record = self._registry.get(name)
            if record is not None and record.attached:
                self._supervisor.forget(name)
            elif record is not None:
                raise ApiError(409, f"'{name}' was not attached: `fcd worker stop` ends it.", code="not_attached")
            elif not found:
                raise ApiError(404, f"No worker '{name[:80]}' is attached: see `fcd worker list`.", code="not_found")

    def _check_name(self, name: str, url: str) -> None:
        if not _NAME.fullmatch(name):
            raise invalid("name", "A worker's name has 1 to 64 letters, digits and . _ : @ + -")
        record = self._registry.get(name)
        if record is not None and not (record.attached or record.url == url):
            raise ApiError(409, f"Another worker is called '{name}': give --name.", code="name_taken", param="name")
        if record is None and sum(each.attached for each in self._registry.all()) >= _MOST_ATTACHED:
            raise ApiError(429, f"{_MOST_ATTACHED} servers are attached, as many as may be.", code="overloaded")

    def _check_free(self, names: dict[str, str]) -> None:
        taken = [name for name in names if self._is_reserved(name)]
        if taken:
            raise ApiError(
                409,
                f"'{taken[0]}' is a model of this machine. Give it another name here: --model OTHER={names[taken[0]]}.",
                code="name_taken",
                param="models",
            )


def _base(url: str) -> str:
    """The URL without what is added to it for each route."""
    if len(url) > 512:
        raise invalid("url", "A URL has at most 512 characters.")
    base = url.rstrip("/").removesuffix("/v1").rstrip("/")
    if urlsplit(base).scheme not in ("http", "https"):
        raise invalid("url", f"'{url[:80]}' is not a URL: it begins with http:// or https://.")
    return base


def _leads_to(url: str, host: str, own: str) -> bool:
    """Whether a URL is the daemon's own, which listens on `host`: requests would go round for ever.

    Asks the resolver, so it blocks.
    """
    there = urlsplit(url)
    if (there.port or _PORTS[there.scheme]) != urlsplit(own).port:
        return False
    if host in ("0.0.0.0", "::", ""):
        return any(_is_of_this_machine(address) for address in _addresses(there.hostname))
    return bool(_addresses(there.hostname) & _addresses(host))


def _addresses(host: str | None) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()


def _is_of_this_machine(address: str) -> bool:
    """Only an address of this machine can be listened on."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as trial:
            trial.bind((address, 0))
    except OSError:
        return False
    return True


def _record(attachment: Attachment) -> Record:
    target = target_of(attachment.name, attachment.url, api_key=attachment.api_key)
    said = FcdExtension(openai_url=attachment.url, engine=ENGINE, device="")
    if attachment.vision:
        said.capabilities = ["vision"]
    renamed = {here: there for here, there in attachment.names.items() if here != there}
    return Record(
        name=attachment.name,
        url=attachment.url,
        local=False,
        status=WorkerStatus(list(attachment.names), 1, 0),
        target=msgspec.structs.replace(target, names=renamed, images=images_of(said)),
        check_beat=False,
        attached=True,
        multimodal=attachment.vision,
        fcd=said,
        registered_at=time.time(),
    )


class Listed(msgspec.Struct, frozen=True):
    """What a server answers at /v1/models, as far as it is read here."""

    data: list[_Model]
    models: list[Any] = []
    """llama.cpp's own list beside it."""

    @property
    def names(self) -> list[str]:
        return [model.id for model in self.data]

    def sees(self, name: str) -> bool:
        """Whether it says that this model of it sees images."""
        entry = next((model for model in self.data if model.id == name), None)
        own = llama_entry({"models": self.models}, name)
        return entry is not None and (says_vision(msgspec.to_builtins(entry)) or says_vision(own))


async def list_models(target: Target) -> Listed:
    """What a server lists at /v1/models.

    Raises:
        ApiError: 502, saying why it cannot be used and what to do.
    """
    where = base_url(target)
    try:
        async with (
            asyncio.timeout(_ANSWER_S),
            httpx.AsyncClient(timeout=_ANSWER_S, trust_env=False, follow_redirects=False) as client,
        ):
            answer = await client.get(f"{where}/v1/models", headers=authorization(target))
    except TimeoutError:
        raise _unusable(f"{where} did not answer within {_ANSWER_S:g} s.") from None
    except (httpx.HTTPError, OSError) as error:
        raise _unusable(f"{where} does not answer: {str(error) or type(error).__name__}.") from None
    if answer.status_code in (401, 403):
        hint = "did not take the key" if target.api_key else "wants a key: give --key-file FILE"
        raise _unusable(f"{where} {hint} (HTTP status {answer.status_code}).")
    if 300 <= answer.status_code < 400:
        to = answer.headers.get("location", "another address")[:200]
        raise _unusable(f"{where} answers with a redirect, which is not followed. Attach {to} if that is meant.")
    if answer.status_code != 200 or len(answer.content) > _MOST_LIST_BYTES:
        raise _unusable(f"{where}/v1/models answers with HTTP status {answer.status_code}{_said(answer)}.")
    try:
        return msgspec.json.decode(answer.content, type=Listed)
    except msgspec.MsgspecError:
        raise _unusable(f"{where}/v1/models does not answer with a list of models.") from None


async def _tells_of_images(target: Target, listed: Listed) -> bool:
    """Whether llama.cpp's /props says that the one model of this server sees images."""
    if len(listed.data) != 1:
        return False
    try:
        async with httpx.AsyncClient(timeout=_PROPS_S, trust_env=False, follow_redirects=False) as client:
            answer = await client.get(f"{base_url(target)}/props", headers=authorization(target))
        props = msgspec.json.decode(answer.content) if answer.status_code == 200 else {}
    except (httpx.HTTPError, OSError, msgspec.MsgspecError):
        return False
    return isinstance(props, dict) and says_vision({}, props)


def _said(answer: httpx.Response) -> str:
    try:
        message = api_error_from_body(answer.status_code, msgspec.json.decode(answer.content)).message
    except msgspec.MsgspecError:
        return ""
    return f": {message[:300].rstrip('.')}"


def _unusable(message: str) -> ApiError:
    return ApiError(502, message, code="cannot_attach", param="url")


def _chosen(wanted: dict[str, str], listed: list[str]) -> dict[str, str]:
    """The models to use, each of which the server must list."""
    if not wanted:
        if not listed:
            raise _unusable("The server lists no models.")
        if len(listed) > _MOST_NAMES:
            raise invalid("models", f"The server lists {len(listed)} models: choose some with --model.")
        return {name: name for name in listed}
    for there in wanted.values():
        if there not in listed:
            near = difflib.get_close_matches(there, listed, n=2) or listed[:5]
            some = ", ".join(near) if near else "none"
            raise invalid("models", f"The server does not list the model '{there[:80]}'. It lists: {some}.")
    return dict(wanted)
