"""Connections that tell whoever writes past Sanic when the client cannot take more."""

from __future__ import annotations

from typing import Any

from sanic.server.protocols.http_protocol import HttpProtocol


class FlowProtocol(HttpProtocol):
    """Sanic's connection, which also tells a relay when the client cannot take more."""

    __slots__ = ("flow",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flow: Any = None
        """What is written to this connection past Sanic: an object with `pause()` and `resume()`."""

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[no-untyped-call]
        if self.flow is not None:
            self.flow.pause()

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[no-untyped-call]
        if self.flow is not None:
            self.flow.resume()
