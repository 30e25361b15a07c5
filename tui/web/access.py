"""Who may open the interface in a browser: a link that works once, then a cookie. Pure but for the clock passed in."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

LINK_LIFE_S = 600.0
"""How long a printed link can wait to be opened."""
_COOKIES = 16
"""Browsers that are let in at once; the one let in first is forgotten for another."""
_LINKS = 16


class Access:
    """Links and cookies of one server, in memory only: a restart forgets them all.

    Secrets are compared in constant time.
    """

    def __init__(self, port: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._links: dict[str, float] = {}
        self._cookies: list[str] = []
        self.cookie_name = f"fcd_web_{port}"
        """Of its own for each port, because browsers send a host's cookies to all its ports."""
        self.hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))

    def new_link(self) -> str:
        """A token that opens the interface once."""
        token = secrets.token_urlsafe(32)
        self._links[token] = self._clock() + LINK_LIFE_S
        while len(self._links) > _LINKS:
            del self._links[next(iter(self._links))]
        return token

    def enter(self, token: str) -> str | None:
        """Spend a link's token: the cookie's value for it, or None where it is wrong, spent or too old."""
        found = _among(token, self._links)
        if found is None or self._links.pop(found) < self._clock():
            return None
        self._cookies = [*self._cookies[1 - _COOKIES :], secrets.token_urlsafe(32)]
        return self._cookies[-1]

    def knows(self, cookie: str) -> bool:
        return _among(cookie, self._cookies) is not None

    def host_allowed(self, host: str) -> bool:
        """Whether a `Host` header is this machine's: a name that was made to point here is not."""
        return host.lower() in self.hosts

    def origin_allowed(self, origin: str, host: str) -> bool:
        """Whether a page of this very server asks; no other page may, and what says nothing may not either."""
        return self.host_allowed(host) and origin.lower() == f"http://{host.lower()}"


def _among(given: str, secret: dict[str, float] | list[str]) -> str | None:
    """The secret that equals what was given; every one is compared, so that time tells nothing."""
    found = None
    for one in secret:
        if hmac.compare_digest(one.encode(), given.encode("utf-8", "surrogateescape")):
            found = one
    return found
