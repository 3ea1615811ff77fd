"""Behaviour cloning: the policy is fitted to the data's actions, all of the same weight."""

from __future__ import annotations

import dataclasses

from rlox.core.algorithm import Algorithm
from rlox.core.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCConfig(Config):
    """Settings of behaviour cloning: plain maximum likelihood, the baseline of everything else."""


BC = Algorithm(config=BCConfig)
