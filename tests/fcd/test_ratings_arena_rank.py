"""Against LMArena's own arena-rank, in an environment of its own: the same ratings and intervals.

FCD_ARENA_RANK_PYTHON names a Python that has arena-rank, so that the environment need not be made each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fcd.ratings.bradley_terry import fit, sandwich_interval
from fcd.ratings.counts import PairCounts
from tests.fcd.test_ratings import names, simulate

VERSION = "0.1.1"
SCRIPT = """
import json, sys
import numpy as np, pandas as pd
from arena_rank.utils.data_utils import PairDataset
from arena_rank.models.bradley_terry import BradleyTerry
votes = np.load(sys.argv[1])
frame = pd.DataFrame({
    "model_a": [f"m{index}" for index in votes["a"]],
    "model_b": [f"m{index}" for index in votes["b"]],
    "winner": [{1.0: "model_a", 0.0: "model_b", 0.5: "tie"}[score] for score in votes["score"]],
})
data = PairDataset.from_pandas(frame)
found = BradleyTerry(n_competitors=len(data.competitors)).compute_ratings_and_cis(data)
print(json.dumps({name: [float(found[key][row]) for key in ("ratings", "rating_lower", "rating_upper")]
                  for row, name in enumerate(data.competitors)}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    given = os.environ.get("FCD_ARENA_RANK_PYTHON")
    if given:
        return given
    folder = tmp_path_factory.mktemp("arena-rank")
    made = str(folder / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [made, "-m", "pip", "install", "-q", f"arena-rank=={VERSION}"],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"arena-rank cannot be installed here: {error}")
        if done.returncode:
            pytest.skip(f"arena-rank cannot be installed here: {done.stderr.strip()[-200:]}")
    return made


@pytest.mark.slow
def test_ratings_and_intervals_are_those_of_arena_rank(python: str, tmp_path: Path) -> None:
    """20,000 battles of 30 models: ratings to 0.5 points, intervals to 5 %."""
    theta = np.random.default_rng(7).normal(0.0, 0.8, 30)
    a, b, score = simulate(theta, 20_000, 11)
    votes = tmp_path / "votes.npz"
    np.savez(votes, a=a, b=b, score=score)
    environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([python, "-c", SCRIPT, str(votes)], capture_output=True, text=True, timeout=300, env=environ)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    counts = PairCounts.from_arrays(names(30), a, b, score)
    fitted = fit(counts, prior=0.0)
    lower, upper = sandwich_interval(counts, fitted.theta, prior=0.0)
    for row, name in enumerate(counts.models):
        rating, low, high = theirs[name]
        assert fitted.ratings[row] == pytest.approx(rating, abs=0.5)
        assert upper[row] - lower[row] == pytest.approx(high - low, rel=0.05)
