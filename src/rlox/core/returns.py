"""Returns of stored episodes."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def lambda_returns(
    reward: Float[Array, "T n"],
    next_value: Float[Array, "T n"],
    terminated: Bool[Array, "T n"],
    ended: Bool[Array, "T n"],
    gamma: float,
    td_lambda: float,
) -> Float[Array, "T n"]:
    """Return the TD(lambda) return of every step of ``n`` streams, each in order of time.

    With ``G_t`` for the return and ``V'_t`` for the value of where the step led,

        G_t = r_t + gamma (1 - terminated_t) ((1 - lambda) V'_t + lambda G_{t+1}),

    and ``V'_t`` in place of ``G_{t+1}`` where the stream ends at ``t`` (Sutton and Barto 2018, section 12.1; Peng et
    al. 2019, section 3). At lambda 0 that is the one-step target, at 1 the discounted sum of rewards with a bootstrap
    at a cut.

    Args:
        reward: what each step paid.
        next_value: V of the observation that each step led to.
        terminated: no value after this step.
        ended: nothing follows this step in its stream: terminated, truncated, or the last that is stored.
        gamma: discount factor.
        td_lambda: share of the longer return, 0 to 1.
    """
    # G_t = first_t + slope_t G_{t+1} is a composition of affine maps, which is associative: T steps in log T rounds.
    discount = gamma * (1.0 - terminated)
    slope = jnp.where(ended, 0.0, td_lambda * discount)
    first = reward + (discount - slope) * next_value

    def compose(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] + earlier[1] * later[0], earlier[1] * later[1]

    returns, _ = lax.associative_scan(compose, (first, slope), reverse=True)
    return returns
