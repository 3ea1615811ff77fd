"""TD(lambda) returns against a loop that follows the definition, and their limits."""

from typing import Any

import jax
import numpy as np
import pytest

from references import mixed_returns
from rlox.core.returns import lambda_returns

GAMMA = 0.9
returns = jax.jit(lambda_returns, static_argnums=(4, 5))


def episodes(length: int, n: int, seed: int = 0) -> dict[str, Any]:
    """Return random streams; a tenth of the steps terminate, another tenth are cut."""
    rng = np.random.default_rng(seed)
    ending = rng.integers(10, size=(length, n))
    ended = ending < 2
    ended[-1] = True
    return {
        "reward": rng.normal(size=(length, n)).astype(np.float32),
        "next_value": rng.normal(size=(length, n)).astype(np.float32),
        "terminated": ending == 0,
        "ended": ended,
    }


@pytest.mark.parametrize("td_lambda", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize(("length", "n"), [(1, 1), (40, 1), (23, 3)])
def test_returns_are_the_mixture_of_k_step_returns(td_lambda: float, length: int, n: int):
    streams = episodes(length, n)
    found = returns(*streams.values(), GAMMA, td_lambda)
    np.testing.assert_allclose(found, mixed_returns(**streams, gamma=GAMMA, td_lambda=td_lambda), rtol=1e-4, atol=1e-5)


def test_lambda_1_ignores_every_value_but_that_at_a_cut():
    streams = episodes(30, 2)
    uncut = ~streams["ended"] | streams["terminated"]
    other = streams | {"next_value": np.where(uncut, 1e3, streams["next_value"]).astype(np.float32)}
    np.testing.assert_allclose(
        returns(*streams.values(), GAMMA, 1.0), returns(*other.values(), GAMMA, 1.0), rtol=1e-5, atol=1e-5
    )
