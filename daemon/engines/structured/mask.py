"""Which tokens may come next: one matcher for each completion, over a grammar that all of them share."""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import numpy.typing as npt
import xgrammar

Bits = npt.NDArray[np.int32]
"""`[rows, ceil(vocabulary / 32)]`: bit `t % 32` of word `t // 32` says whether token t is allowed."""


SLOW_S: Final = 0.1
"""CPU time of one mask that others in the batch notice."""
PATIENCE_S: Final = 3.0
"""How much of that one completion may cost them altogether."""


class CompiledGrammar:
    """A grammar for one model's vocabulary; see `daemon.engines.base.Grammar`. Safe to share."""

    def __init__(self, compiled: xgrammar.CompiledGrammar, vocab_size: int, *, has_end: bool) -> None:
        self._compiled = compiled
        self._has_end = has_end
        self.vocab_size = vocab_size
        self.memory_bytes = int(compiled.memory_size_bytes)

    def start(self) -> TokenMask:
        """A mask at the beginning of an answer."""
        matcher = xgrammar.GrammarMatcher(self._compiled, terminate_without_stop_token=not self._has_end)
        return TokenMask(matcher, self.vocab_size)


class TokenMask:
    """One completion's place in its grammar. Used by one thread at a time."""

    def __init__(self, matcher: xgrammar.GrammarMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._spent = 0.0
        self.vocab_size = vocab_size
        self.finished = False
        self.failure = ""

    def fill(self, bits: Bits, row: int) -> bool:
        """Write what may come next into `bits[row]`; False when everything may, and nothing was narrowed."""
        began = time.thread_time()
        narrowed = bool(self._matcher.fill_next_token_bitmask(bits, row))
        took = time.thread_time() - began
        self._spent += took if took > SLOW_S else 0.0
        return narrowed

    def accept(self, token_id: int) -> bool:
        """Take the token that was chosen; False when the grammar does not allow it, or has cost too much."""
        if self._spent > PATIENCE_S:
            self.failure = "keeping to the form that it must have takes too long"
            return False
        accepted = bool(self._matcher.accept_token(token_id))
        self.failure = "" if accepted else "nothing that this model can write keeps to the form that it must have"
        self.finished = bool(self._matcher.is_terminated())
        return accepted
