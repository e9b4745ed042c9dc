"""The benchmarks are scripts: their folder is put on the path as Python does for a script."""

import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
