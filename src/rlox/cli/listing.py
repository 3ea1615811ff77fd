"""``rlox list``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from rlox.cli.report import describe_algorithm


def list_(
    what: Annotated[Literal["algorithms", "presets", "datasets"], Parameter(metavar="WHAT")] = "algorithms", /
) -> None:
    """List the algorithms, their presets and what these reached, or the bundled data.

    Parameters
    ----------
    what
        What to list.
    """
    {"algorithms": _algorithms, "presets": _presets, "datasets": _datasets}[what]()


def _algorithms() -> None:
    from rlox.algorithms import ALGORITHMS

    for name, algorithm in ALGORITHMS.items():
        print(f"{name:8} {describe_algorithm(algorithm.config)}".rstrip())


def _presets() -> None:
    import json
    from importlib.resources import files

    from rlox.presets import BEST, PRESETS, TUNED

    scores = json.loads((files("rlox") / "scores.json").read_text())
    for algorithm, presets in PRESETS.items():
        for name, environments in presets.items():
            for env in environments:
                told = _told(scores.get(algorithm, {}).get(name, {}).get(env))
                mark = "*" if name == TUNED and BEST.get(env) == algorithm else " "
                print(f"{mark} {algorithm:8} {name:8} {env:28} {told}".rstrip())
    print("\n* what `rlox train tuned` takes in this environment")


def _datasets() -> None:
    from rlox.data.bundled import bundled_names, reference
    from rlox.data.dataset import Dataset

    for name in bundled_names():
        data, made_for = Dataset.load(name), reference(name)
        mean = float(data.episode_returns.mean())
        size = f"{len(data):,} steps, {data.n_episodes} episodes"
        score = f"mean return {mean:.1f}, score {made_for.score(mean):.1f}"
        print(f"{name:26} {made_for.env:15} {size:28} {score}")


def _told(score: Mapping[str, Any] | None) -> str:
    """Return what a preset reached, in words: means over seeds, after the last step."""
    if score is None:
        return ""
    seeds = f"{score['n_seeds']} seeds" if score["n_seeds"] > 1 else "1 seed"
    return f"{score['mean_reward']:8.1f} after {score['env_steps']:,} steps, {score['seconds']:.0f} s ({seeds})"
