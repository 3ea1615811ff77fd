"""Write what the presets reached to the package, from the results: `rlox list presets` shows it.

python benchmarks/scores.py
"""

from __future__ import annotations

import json
import statistics

from common import RESULTS, ROOT, Row
from rlox.runs.history import find_runs, group_runs

FILE = ROOT / "src" / "rlox" / "scores.json"


def scores() -> dict[str, dict[str, dict[str, Row]]]:
    """Return means over seeds at the last step, by algorithm, preset and environment."""
    found: dict[str, dict[str, dict[str, Row]]] = {"awr": {"paper": {}, "tuned": {}}}
    for preset, own in found["awr"].items():
        for env, groups in group_runs(find_runs([RESULTS / f"paper_{preset}.json"])).items():
            returns = [run.returns for run in groups[preset]]
            own[env] = {
                "mean_reward": round(statistics.mean(series.values[-1] for series in returns), 1),
                "env_steps": int(returns[0].steps[-1]),
                "seconds": round(statistics.mean(series.seconds[-1] for series in returns)),
                "n_seeds": len(returns),
            }
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(scores(), indent=1) + "\n")
