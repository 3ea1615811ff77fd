"""Compiled programs are traced once, whatever a training is asked for."""

from typing import Any

import numpy as np
import pytest

from inside import traces
from probes import ObservedReward
from rlox import Dataset, Trainer

SMALL: dict[str, Any] = {"hidden": 5, "batch_size": 8, "learning_starts": 20, "buffer_size": 50}
ROUNDS: dict[str, Any] = {**SMALL, "rollout_steps": 30, "n_critic_updates": 2, "n_actor_updates": 2}
PROGRAMS: dict[str, dict[str, Any]] = {
    "learn": SMALL,
    "learn, several times a step": {**SMALL, "updates_per_step": 2, "n_critic_updates": 2},
    "learn_round": ROUNDS,
    "learn_offline": SMALL,
    "learn_round_offline": ROUNDS,
}


def logged(n: int = 40) -> Dataset:
    columns = {"observations": np.arange(n)[:, None], "actions": np.arange(n) % 2, "rewards": np.arange(n) % 3}
    space = ObservedReward().observation_space
    return Dataset.from_arrays(
        {**columns, "observations": np.linspace(-1, 1, n)[:, None], "terminals": np.ones(n)}, observation_space=space
    )


@pytest.mark.parametrize("case", PROGRAMS)
def test_a_program_is_traced_once(case: str):
    program = case.partition(",")[0]
    offline = program.endswith("offline")
    trainer = Trainer("awr", ObservedReward(), dataset=logged() if offline else None, config=PROGRAMS[case])
    train = trainer.train_offline if offline else trainer.train
    with traces() as first:
        train(60, log_interval=20, eval_interval=30, n_eval_episodes=1, progress=False)
    assert first[program] == 1
    with traces() as later:
        train(41, log_interval=7, eval_interval=15, progress=False)
        trainer.evaluate(2)
        train(3, progress=False)
    assert not later
