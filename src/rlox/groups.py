"""Which runs of a comparison are learned in one program."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlox.algorithms import find_algorithm
from rlox.core.algorithm import Algorithm

if TYPE_CHECKING:
    from rlox.plan import Job
    from rlox.spec import RunSpec


def at_once(jobs: Sequence[Job], n_cores: int) -> list[list[Job]]:
    """Return runs in the order in which they begin, those together that are one program.

    These are seeds of the same settings that learn from data only, by an algorithm of ours; no more of them than keeps
    all cores busy.
    """
    most = -(-len(jobs) // n_cores)
    same: dict[object, list[Job]] = {}
    for job in jobs:
        alone = job if not learns_offline(job.spec) else None
        same.setdefault((job.label, dataclasses.replace(job.spec, seed=0), alone), []).append(job)
    groups = []
    for seeds in same.values():
        n = -(-len(seeds) // most)
        groups += [seeds[i::n] for i in range(n)]
    return sorted(groups, key=lambda group: jobs.index(group[0]))


def learns_offline(spec: RunSpec) -> bool:
    """Return whether a run learns from data only, by an algorithm of ours."""
    budget = spec.budget
    ours = isinstance(find_algorithm(spec.algorithm)[1], Algorithm)
    return ours and spec.dataset is not None and budget.gradient_steps is not None and budget.total_timesteps is None
