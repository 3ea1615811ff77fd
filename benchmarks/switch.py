"""How far returns fall after the switch from data to the environment, in the runs of `switch.toml`.

    python benchmarks/switch.py [RUN...]

The fall is the return at the switch minus the lowest one after it, as a share of what the first gained over the random
policy. Runs are folders or files, as `rlox compare` takes them.
"""

from __future__ import annotations

import statistics
import sys

from common import RESULTS, print_table
from rlox.data.bundled import reference
from rlox.runs.history import Run, find_runs, group_runs


def returns(run: Run) -> list[float]:
    """Return those at the switch and after it."""
    return [run.series("eval/mean_reward", offline=True).values[-1], *run.series("eval/mean_reward").values]


def main() -> None:
    lines = []
    for data, groups in group_runs(
        find_runs(sys.argv[1:] or [RESULTS / "switch.json", RESULTS / "switch_mpo.json"])
    ).items():
        for label, runs in groups.items():
            found = [returns(run) for run in runs]
            falls = [(own[0] - min(own)) / (own[0] - reference(data).random) for own in found]
            at, end = (statistics.mean(own[i] for own in found) for i in (0, -1))
            lines.append([data, label, f"{at:.0f}", f"{end:.0f}", ", ".join(f"{fall:.2f}" for fall in falls)])
    print_table(["data", "algorithm", "at the switch", "at the end", "fall, each seed"], lines)


if __name__ == "__main__":
    main()
