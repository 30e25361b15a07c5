"""A whole board with bootstrap intervals, beside arena-rank and FastChat: `python benchmarks/arena.py`.

The votes are drawn once (2,000,000 among 200 models, strengths normal, a fifth ties) and given to each program as
arrays on disk; each counts them, fits Bradley-Terry and its bootstrap in a process of its own, whose time and largest
memory are printed as JSON lines. Reading the file is not counted, nor is starting Python; making pandas frames, which
the others need, is told apart.

    --arena-rank-python PYTHON     a Python with arena-rank (`pip install arena-rank==0.1.1`)
    --fastchat-python PYTHON --fastchat-repo FOLDER    one with numpy, scipy, pandas and tqdm, and FastChat's sources
    --their-rounds N               fewer rounds for the others; the time per round is printed for all
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = """
import json, sys, time, resource
import numpy as np
from fcd.ratings.board import make_board
from fcd.ratings.counts import PairCounts
votes, rounds = np.load(sys.argv[1]), int(sys.argv[2])
a, b, score = votes["a"], votes["b"], votes["score"]
began = time.perf_counter()
counts = PairCounts.from_arrays([f"m{i}" for i in range(int(a.max()) + 1)], a, b, score)
board = make_board(counts, intervals="bootstrap", rounds=rounds, prior=0.0)
seconds = time.perf_counter() - began
width = float(np.mean(board.upper - board.lower))
"""

_FRAME = """
import json, sys, time, resource
import numpy as np, pandas as pd
rounds = int(sys.argv[2])
def read():
    votes = np.load(sys.argv[1])
    labels = np.array([f"m{i}" for i in range(int(votes["a"].max()) + 1)])
    winners = np.array(["model_b", "tie", "model_a"])
    return pd.DataFrame({"model_a": labels[votes["a"]], "model_b": labels[votes["b"]],
                         "winner": winners[(votes["score"] * 2).astype(int)]})
"""

ARENA_RANK = (
    _FRAME
    + """
from arena_rank.utils.data_utils import PairDataset
from arena_rank.models.bradley_terry import BradleyTerry
if __name__ == "__main__":
    import multiprocessing
    multiprocessing.set_start_method("spawn")  # its pool of forks waits for ever on JAX's threads
    frame = read()
    began = time.perf_counter()
    data = PairDataset.from_pandas(frame)
    found = BradleyTerry(n_competitors=len(data.competitors)).compute_ratings_and_cis(
        data, ci_method="bootstrap", num_bootstrap=rounds)
    lower, upper = np.asarray(found["rating_lower"]), np.asarray(found["rating_upper"])
    seconds = time.perf_counter() - began
    width = float(np.mean(upper - lower))
"""
)

FASTCHAT = (
    _FRAME
    + """
sys.path.insert(0, sys.argv[3])
import rating_systems
if __name__ == "__main__":
    frame = read()
    began = time.perf_counter()
    rating_systems.compute_bt(frame)
    found = rating_systems.compute_bootstrap_bt(frame, rounds)
    lower, upper = found.quantile(0.025), found.quantile(0.975)
    seconds = time.perf_counter() - began
    width = float(np.mean(upper - lower))
"""
)

_REPORT = """
if __name__ == "__main__":
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 2), "width": round(width, 3), "rss_mb": round(own),
                      "largest_child_mb": round(child)}))
"""


_LIMIT_S = 1800


def draw(votes: int, models: int, file: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(20)
    theta = rng.normal(0.0, 1.0, models)
    a = rng.integers(0, models, votes)
    b = (a + rng.integers(1, models, votes)) % models
    wins = rng.random(votes) < 1 / (1 + np.exp(theta[b] - theta[a]))
    np.savez(file, a=a, b=b, score=np.where(rng.random(votes) < 0.2, 0.5, wins * 1.0))


def measure(name: str, python: str, script: str, votes: Path, rounds: int, *more: str) -> None:
    program = votes.with_name(f"board_of_{name.replace('-', '_')}.py")
    program.write_text(script + _REPORT)
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [python, str(program), str(votes), str(rounds), *more],
            capture_output=True, text=True, env=environ, timeout=_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print(json.dumps({"program": name, "rounds": rounds, "failed": f"not within {_LIMIT_S} s"}), flush=True)
        return
    if done.returncode:
        print(json.dumps({"program": name, "failed": done.stderr.strip()[-400:]}), flush=True)
        return
    found = json.loads(done.stdout.splitlines()[-1])
    found |= {"rounds": rounds, "ms_per_round": round(1000 * found["seconds"] / rounds, 1)}
    print(json.dumps({"program": name, **found, "wall_s": round(time.monotonic() - began, 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of a board with bootstrap intervals.")
    parser.add_argument("--votes", type=int, default=2_000_000)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--their-rounds", type=int, default=0)
    parser.add_argument("--arena-rank-python", default="")
    parser.add_argument("--fastchat-python", default="")
    parser.add_argument("--fastchat-repo", default="")
    args = parser.parse_args()
    theirs = args.their_rounds or args.rounds
    with tempfile.TemporaryDirectory() as folder:
        votes = Path(folder) / "votes.npz"
        draw(args.votes, args.models, votes)
        measure("fcd", sys.executable, OURS, votes, args.rounds)
        if args.arena_rank_python:
            measure("arena-rank", args.arena_rank_python, ARENA_RANK, votes, theirs)
        if args.fastchat_python:
            sources = str(Path(args.fastchat_repo) / "fastchat" / "serve" / "monitor")
            measure("fastchat", args.fastchat_python, FASTCHAT, votes, theirs, sources)


if __name__ == "__main__":
    main()
