"""What every part of the daemon's client stands on: how it asks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcd.client import ServerSentEvent


class Calls:
    """Mixed into `fcd.client.Client`, which asks. Every method of a part raises `NotRunning` and `ApiError`."""

    @abstractmethod
    async def json(self, method: str, path: str, body: Any = None) -> Any: ...

    @abstractmethod
    def events(self, method: str, path: str, body: Any = None) -> AsyncGenerator[ServerSentEvent, None]: ...

    @abstractmethod
    def raw(self, method: str, path: str, body: bytes | None = None) -> AsyncGenerator[bytes, None]: ...
