"""Which tokens may come next: one matcher for each completion, over a grammar that all of them share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xgrammar

Bits = npt.NDArray[np.int32]
"""`[rows, ceil(vocabulary / 32)]`: bit `t % 32` of word `t // 32` says whether token t is allowed."""


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
        self.vocab_size = vocab_size
        self.finished = False

    def fill(self, bits: Bits, row: int) -> bool:
        """Write what may come next into `bits[row]`; False when everything may, and nothing was narrowed."""
        return bool(self._matcher.fill_next_token_bitmask(bits, row))

    def accept(self, token_id: int) -> bool:
        """Take the token that was chosen; False when the grammar does not allow it."""
        accepted = bool(self._matcher.accept_token(token_id))
        self.finished = bool(self._matcher.is_terminated())
        return accepted
