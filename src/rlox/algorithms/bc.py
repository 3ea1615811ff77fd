"""Behaviour cloning: the policy is fitted to the data's actions, all of the same weight."""

from __future__ import annotations

import dataclasses

from rlox.core.algorithm import Algorithm
from rlox.core.config import ActionKind, Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCConfig(Config):
    """Settings of behaviour cloning: plain maximum likelihood, the baseline of everything else."""

    def idle(self, actions: ActionKind) -> dict[str, str]:
        return dict.fromkeys(("critic_learning_rate", "value_scale", "critic_warmup_steps"), "in bc, without a critic")


BC = Algorithm(config=BCConfig)
