"""Votes as counts per pair of models: all that Elo-type ratings without style need, and cheap to keep up to date."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fcd.ratings.scale import Floats, Ints

A_WINS, B_WINS, TIE = 1.0, 0.0, 0.5
"""Scores of side a. `both_bad` is a tie, as FastChat and LMArena count it."""

SCORES = {"a": A_WINS, "b": B_WINS, "tie": TIE, "both_bad": TIE}
"""Outcomes that count; a skipped battle has none."""

_FIRST_ROOM = 8


class PairCounts:
    """How often each model was preferred to each other, and how often neither was.

    `wins[i, j]` counts votes for i over j; `ties[i, j] == ties[j, i]` counts ties. Counts may be weighted.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self.models: list[str] = []
        self._index: dict[str, int] = {}
        self._wins = np.zeros((_FIRST_ROOM, _FIRST_ROOM))
        self._ties = np.zeros((_FIRST_ROOM, _FIRST_ROOM))
        for model in models:
            self.index(model)

    @classmethod
    def from_arrays(cls, models: Sequence[str], a: Ints, b: Ints, score: Floats) -> PairCounts:
        """From votes: indices into `models` and side a's score, each of shape (votes,)."""
        counts = cls(models)
        n = len(counts.models)
        cells = a.astype(np.int64) * n + b
        for value, matrix in ((A_WINS, counts._wins), (TIE, counts._ties)):
            matrix[:n, :n] += np.bincount(cells[score == value], minlength=n * n).reshape(n, n)
        mirrored = np.bincount((b.astype(np.int64) * n + a)[score == B_WINS], minlength=n * n).reshape(n, n)
        counts._wins[:n, :n] += mirrored
        ties = counts._ties[:n, :n]
        ties += ties.T.copy()
        return counts

    def __len__(self) -> int:
        return len(self.models)

    @property
    def wins(self) -> Floats:
        n = len(self.models)
        return self._wins[:n, :n]

    @property
    def ties(self) -> Floats:
        n = len(self.models)
        return self._ties[:n, :n]

    @property
    def games(self) -> Floats:
        """Votes between each pair, symmetric, shape (n, n)."""
        wins = self.wins
        games: Floats = wins + wins.T + self.ties
        return games

    @property
    def scores(self) -> Floats:
        """Wins of row over column with ties as half, shape (n, n)."""
        scores: Floats = self.wins + 0.5 * self.ties
        return scores

    @property
    def total(self) -> float:
        return float(self.wins.sum() + self.ties.sum() / 2)

    def index(self, model: str) -> int:
        """The model's row; it gets one when it is new."""
        found = self._index.get(model)
        if found is not None:
            return found
        row = self._index[model] = len(self.models)
        self.models.append(model)
        if row >= len(self._wins):
            self._grow()
        return row

    def add(self, model_a: str, model_b: str, score: float, weight: float = 1.0) -> None:
        """One vote, or `weight` of them; a negative weight takes it back."""
        a, b = self.index(model_a), self.index(model_b)
        if score == TIE:
            self._ties[a, b] += weight
            self._ties[b, a] += weight
        else:
            winner, loser = (a, b) if score == A_WINS else (b, a)
            self._wins[winner, loser] += weight

    def copy(self) -> PairCounts:
        made = PairCounts(self.models)
        n = len(self.models)
        made._wins[:n, :n] = self.wins
        made._ties[:n, :n] = self.ties
        return made

    def _grow(self) -> None:
        size = 2 * len(self._wins)
        for name in ("_wins", "_ties"):
            old: Floats = getattr(self, name)
            new = np.zeros((size, size))
            new[: len(old), : len(old)] = old
            setattr(self, name, new)
