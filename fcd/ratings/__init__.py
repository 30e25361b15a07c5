"""Ratings from votes: pure functions over numpy arrays. Needs numpy and nothing else of fcd.

A rating is `1000 + 400 * log10(strength)`: a model 400 points above another is expected to win ten votes of eleven.
Strengths are kept as natural logarithms (`theta`) and turned into points at the edge.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# The matrices are small; beside busy workers, waiting for OpenBLAS' threads takes a hundred times longer than the work.
