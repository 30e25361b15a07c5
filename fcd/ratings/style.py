"""Style control: how much of a preference is the answers' length and Markdown, and the ratings without it.

Bradley-Terry with four features more, as LMArena's style control (T. Li, A. Angelopoulos, W.-L. Chiang, Does Style
Matter?, 2024; FastChat's `compute_style_control`): tokens, headers, lists and bold spans of the answers, each as
(a - b) / (a + b + 1), standardised; an L2 penalty of 0.5 on features and on ratings per ln 10; fitted by Newton.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from fcd.ratings.scale import POINTS, Z_95, Floats, Ints, sigmoid, to_points

FEATURES = ("length", "headers", "lists", "bold")

_PENALTY = 0.5
_MOST_STEPS = 60
_TOLERANCE = 1e-8

_FENCE = re.compile(r"```([^`]*)```")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_LIST = re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


def markdown_counts(answer: str) -> tuple[int, int, int]:
    """Headers, list items and bold spans outside code fences, counted as FastChat's `add_markdown_info` does."""
    prose = _FENCE.sub("", answer)
    return len(_HEADER.findall(prose)), len(_LIST.findall(prose)), len(_BOLD.findall(prose))


@dataclass(frozen=True)
class StyleFit:
    """Strengths without style (mean 0), shape (n,), and the worth of each feature, both with 95 % intervals.

    Features are in points per standard deviation of the difference.
    """

    theta: Floats
    lower: Floats
    upper: Floats
    points: Floats
    points_lower: Floats
    points_upper: Floats

    @property
    def ratings(self) -> Floats:
        return to_points(self.theta)


def style_differences(style_a: Floats, style_b: Floats) -> Floats:
    """Standardised (a - b) / (a + b + 1) of counts of shape (votes, features); a feature that never differs is 0."""
    ratio = (style_a - style_b) / (style_a + style_b + 1.0)
    spread = ratio.std(axis=0)
    standard: Floats = np.where(spread > 0, (ratio - ratio.mean(axis=0)) / np.where(spread > 0, spread, 1.0), 0.0)
    return standard


def fit_style(n: int, a: Ints, b: Ints, score: Floats, features: Floats, *, penalty: float = _PENALTY) -> StyleFit:
    """From votes: indices and side a's score of shape (votes,), features of shape (votes, k)."""
    k = features.shape[1]
    parameters = np.zeros(n + k)
    weight = np.concatenate([np.full(n, penalty / math.log(10.0) ** 2), np.full(k, penalty)])
    for _ in range(_MOST_STEPS):
        p = _predict(parameters, n, a, b, features)
        gradient = _gather(score - p, n, a, b, features) - weight * parameters
        move = np.linalg.inv(_information(p * (1 - p), n, a, b, features) + np.diag(weight)) @ gradient
        move *= min(1.0, 3.0 / max(float(np.abs(move).max()), 1e-300))
        parameters += move
        if np.abs(move).max() < _TOLERANCE:
            break
    p = _predict(parameters, n, a, b, features)
    inverse = np.linalg.inv(_information(p * (1 - p), n, a, b, features) + np.diag(weight))
    covariance = inverse @ _information((score - p) ** 2, n, a, b, features) @ inverse
    return _result(parameters, covariance, n)


def _result(parameters: Floats, covariance: Floats, n: int) -> StyleFit:
    centre = np.eye(n) - 1.0 / n
    theta = parameters[:n] - parameters[:n].mean()
    spread = np.sqrt(np.maximum(np.diag(centre @ covariance[:n, :n] @ centre), 0.0))
    margin = Z_95 * POINTS * spread
    points = POINTS * parameters[n:]
    points_margin = Z_95 * POINTS * np.sqrt(np.maximum(np.diag(covariance)[n:], 0.0))
    ratings = to_points(theta)
    return StyleFit(theta, ratings - margin, ratings + margin, points, points - points_margin, points + points_margin)


def _predict(parameters: Floats, n: int, a: Ints, b: Ints, features: Floats) -> Floats:
    return sigmoid(parameters[a] - parameters[b] + features @ parameters[n:])


def _gather(values: Floats, n: int, a: Ints, b: Ints, features: Floats) -> Floats:
    """X^T values, for the design matrix X of +1, -1 and the features."""
    models = np.bincount(a, values, n) - np.bincount(b, values, n)
    return np.concatenate([models, features.T @ values])


def _information(weights: Floats, n: int, a: Ints, b: Ints, features: Floats) -> Floats:
    """X^T diag(weights) X, shape (n + k, n + k)."""
    k = features.shape[1]
    cells = np.bincount(a * n + b, weights, n * n).reshape(n, n)
    cells = cells + cells.T
    made = np.zeros((n + k, n + k))
    made[:n, :n] = np.diag(cells.sum(axis=1)) - cells
    for column in range(k):
        mixed = weights * features[:, column]
        made[:n, n + column] = made[n + column, :n] = np.bincount(a, mixed, n) - np.bincount(b, mixed, n)
        made[n:, n + column] = features.T @ mixed
    return made
