"""The first node's view of a worker that is spread over several: starts the parts together, hears how they stand, ends
them together. Travels there by value: the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

_NAMESPACE = "fcd"
_EVERY_S = 0.5
_AGAIN_S = 2.0
_SILENT_S = 10.0
"""Less than a part waits for the first node, so that the first is the one to end the whole."""
_LONGEST_PAUSE_S = 0.1


class Peer(Protocol):
    """The way to one part's `PartHost`. Nothing waits."""

    name: str

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method, for nothing."""
        ...

    def look(self, run: str) -> dict[str, Any] | str | None:
        """Its newest status, once; a text: why there is none; None: nothing new."""
        ...


class RayPeer:
    """A part that is an actor on another node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._handle: Any = None
        self._asked: Any = None
        self._place = 0

    def tell(self, method: str, *arguments: Any) -> None:
        # It may not be placed yet, or be on its way back: its status says what it knows.
        with contextlib.suppress(Exception):
            getattr(self._actor(), method).remote(*arguments)

    def look(self, run: str) -> dict[str, Any] | str | None:
        import ray

        try:
            if self._asked is None:
                self._asked = self._actor().status.remote(run, self._place)
            ready, _ = ray.wait([self._asked], timeout=0)
            if not ready:
                return None
            asked, self._asked = self._asked, None
            found: dict[str, Any] = ray.get(asked)
        except Exception as error:
            self._asked = self._handle = None
            return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        self._place = found["place"]
        return found

    def _actor(self) -> Any:
        import ray

        if self._handle is None:
            self._handle = ray.get_actor(self.name, namespace=_NAMESPACE)
        return self._handle


class Group:
    """One start of the whole.

    Args:
        peers: the other nodes, in the order of their ranks.
        master: the first node's address.
        launch: see `messages.Launch`.
        write: takes what their logs say.
    """

    def __init__(
        self, peers: Sequence[Peer], master: str, launch: dict[str, Any], write: Callable[[str], None]
    ) -> None:
        self.run = secrets.token_hex(8)
        self.number = 0
        """How many times the first node's engine was started."""
        self._over = False
        self._peers = peers
        self._master = master
        # Only the first node registers.
        self._launch = {**launch, "token": "", "token_id": ""}
        self._write = write
        now = time.monotonic()
        self._seen: list[dict[str, Any]] = [{} for _ in peers]
        self._answered = [now for _ in peers]
        self._asked = [0.0 for _ in peers]
        self._told = [0.0 for _ in peers]
        self._problems = ["" for _ in peers]

    def part(self) -> str:
        """The first node's own place, for its program."""
        return json.dumps({"nodes": len(self._peers) + 1, "host": self._master, "master": self._master})

    def prepare(self) -> bool:
        """Have every part made ready; whether all are."""
        self._look()
        now = time.monotonic()
        for rank, (peer, seen) in enumerate(zip(self._peers, self._seen, strict=True), start=1):
            if seen.get("run") != self.run and now - self._told[rank - 1] >= _AGAIN_S:
                self._told[rank - 1] = now
                part = {"nodes": len(self._peers) + 1, "rank": rank, "master": self._master}
                peer.tell("begin", self.run, part, self._launch)
        return all(seen.get("run") == self.run and seen["state"] == "ready" for seen in self._seen)

    def follow(self, line: str) -> None:
        """The first node's engine starts: what its program says to the others."""
        self.number += 1
        for peer in self._peers:
            peer.tell("follow", self.run, self.number, line)

    def broken(self) -> tuple[str, bool]:
        """Why the whole cannot go on, empty while it can; and whether that is a reason that its program gave."""
        self._look()
        now = time.monotonic()
        for place, seen in enumerate(self._seen):
            if seen.get("run") == self.run and seen["state"] == "ended" and seen["number"] >= self.number:
                return f"Its part on the node {seen['node']} ended: {seen['error']}", bool(seen["said"])
            if not self.number and self._problems[place]:
                continue  # it is not placed yet, or on its way back: nothing runs that would miss it
            if self.number and (seen.get("run") != self.run or now - self._answered[place] > _SILENT_S):
                why = self._problems[place] or "its part there is gone"
                return f"The node {seen.get('node') or 'of one part'} does not answer for its part: {why}.", False
        return "", False

    def waits_for(self) -> dict[str, Any]:
        """What the start waits for, as progress."""
        for place, seen in enumerate(self._seen):
            if seen.get("run") == self.run and seen["state"] in ("starting", "loading"):
                progress = seen.get("progress") or {"stage": "starting"}
                return {**progress, "stage": f"{seen['node']}: {progress['stage']}"}
            if seen.get("run") != self.run:
                return {"stage": f"waiting for node {place + 2} of {len(self._peers) + 1}"}
        return {"stage": "starting"}

    def states(self, *, serves: bool) -> list[dict[str, Any]]:
        """The parts as the daemon shows them; `serves`: the whole does."""
        found = []
        for place, seen in enumerate(self._seen):
            silent = not self._over and time.monotonic() - self._answered[place] > _SILENT_S
            state = "unknown" if silent or not seen else str(seen["state"])
            state = "ready" if serves and state == "loading" else state
            error = (self._problems[place] or "It does not answer.") if state == "unknown" else str(seen["error"])
            found.append({"node": seen.get("node", ""), "state": state, "error": error, "pid": seen.get("pid", 0)})
        return found

    def end(self, limit_s: float) -> None:
        """Have every part ended; returns when that is so, or it took too long."""
        self._over = True
        for peer in self._peers:
            peer.tell("rest")
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            self._look(0.0)
            if not any(seen.get("pid") for seen, why in zip(self._seen, self._problems, strict=True) if not why):
                return
            time.sleep(_LONGEST_PAUSE_S)

    def _look(self, every_s: float = _EVERY_S) -> None:
        now = time.monotonic()
        for place, peer in enumerate(self._peers):
            if now - self._asked[place] < every_s:
                continue
            found = peer.look(self.run)
            if found is None:
                continue
            self._asked[place] = now
            if isinstance(found, str):
                self._problems[place] = found
                continue
            self._problems[place], self._answered[place], self._seen[place] = "", now, found
            for line in found["text"].splitlines():
                self._write(f"[{found['node']}] {line}\n")
