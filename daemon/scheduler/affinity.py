"""Which replica holds the cache of which beginning of a conversation. Bounded; the least recently used is forgotten."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

MOST_PREFIXES = 16_384
_HOLDERS = 4
_BOUND = 1.25
"""A replica may have this many times the mean number of requests before its conversations go elsewhere as well."""


class Affinity(msgspec.Struct):
    """One model's table: hash of a beginning to the workers that computed it last, newest first."""

    holders: OrderedDict[int, tuple[str, ...]] = msgspec.field(default_factory=OrderedDict)

    def prefer(self, prefixes: Sequence[int], loads: Mapping[str, int]) -> str:
        """The worker of `loads` that holds the longest beginning and is not overloaded; empty when there is none.

        `loads` has the requests of each worker that could take this one. The bound is that of consistent hashing with
        bounded loads (Mirrokni et al. 2016): a share of `_BOUND` of the mean, rounded up, the new request counted.
        """
        most = math.ceil(_BOUND * (sum(loads.values()) + 1) / max(1, len(loads)))
        for prefix in reversed(prefixes):
            able = [name for name in self.holders.get(prefix, ()) if loads.get(name, most) < most]
            if able:
                return min(able, key=lambda name: loads[name])
        return ""

    def note(self, prefixes: Sequence[int], worker: str) -> None:
        """A request with these beginnings went to this worker."""
        for prefix in prefixes:
            before = self.holders.pop(prefix, ())
            if before[:1] != (worker,):
                before = (worker, *(name for name in before if name != worker))[:_HOLDERS]
            self.holders[prefix] = before
        while len(self.holders) > MOST_PREFIXES:
            self.holders.popitem(last=False)
