"""Write what the presets reached to the package, from the results: `rlox list presets` shows it.

python benchmarks/scores.py
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence

from common import RESULTS, ROOT, Row
from rlox.runs.history import Run, find_runs, group_runs
from rlox.spec import RunSpec

FILE = ROOT / "src" / "rlox" / "scores.json"


SOURCES = {
    "awr": {"paper": ["paper_paper"], "tuned": ["paper_tuned"]},
    "mpo": {"tuned": ["mpo_mujoco", "mpo_classic", "mpo_lunarlander"]},
}
"""Which results a preset's are in, by algorithm."""


def scores() -> dict[str, dict[str, dict[str, Row]]]:
    """Return means over seeds at the last step and median seconds, by algorithm, preset and environment."""
    return {
        algorithm: {name: scores_of(algorithm, name, files) for name, files in presets.items()}
        for algorithm, presets in SOURCES.items()
    }


def scores_of(algorithm: str, preset: str, files: Sequence[str]) -> dict[str, Row]:
    """Return those of a preset, which for MPO are its defaults."""
    found: dict[str, Row] = {}
    runs = find_runs([RESULTS / f"{name}.json" for name in files])
    for env, groups in group_runs([run for run in runs if run.spec["algorithm"] == algorithm]).items():
        returns = [run.returns for runs in groups.values() for run in runs if _is_of(preset, run)]
        found[env] = {
            "mean_reward": round(statistics.mean(series.values[-1] for series in returns), 1),
            "env_steps": int(returns[0].steps[-1]),
            "seconds": round(statistics.median(series.seconds[-1] for series in returns)),
            "n_seeds": len(returns),
        }
    return found


def _is_of(preset: str, run: Run) -> bool:
    """Return whether a run's settings are those of a preset, but for how its environments are stepped."""
    spec = RunSpec.resolve(str(run.spec["algorithm"]), preset=preset, env=str(run.spec["env"]))
    wanted = json.loads(json.dumps(dataclasses.asdict(spec.config)))
    del wanted["vectorization_mode"]
    return all(run.spec["config"].get(name, value) == value for name, value in wanted.items())


if __name__ == "__main__":
    FILE.write_text(json.dumps(scores(), indent=1) + "\n")
