"""Checkpoints of the first version are still read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlox import Policy, Trainer

FOLDER = Path(__file__).parent / "data" / "version-0.1"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())


@pytest.mark.long
@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_of_the_first_version_acts_and_trains(name: str):
    expected = EXPECTED[name]
    trainer = Trainer.load(FOLDER / name)
    np.testing.assert_allclose(trainer.predict(expected["obs"]), expected["action"], rtol=1e-5)
    np.testing.assert_allclose(Policy.load(FOLDER / name).predict(expected["obs"]), expected["action"], rtol=1e-5)
    for counter in ("env_steps", "gradient_steps", "episodes"):
        assert getattr(trainer, counter) == expected[counter]
    assert len(trainer.replay_dataset()) == min(expected["env_steps"], 150)
    trainer.train(130)
    assert trainer.env_steps == expected["env_steps"] + 130
    assert trainer.gradient_steps > expected["gradient_steps"]
    assert trainer.run_dir is None
