"""Said while a run goes on: that weights do not tell actions apart, or that values are out of reach, and what to do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from rlox.core.config import Settings
from rlox.runs.diagnosis import CLIPPED

WARM = 1000
"""Gradient steps before which weights may be anything, since the critic knows nothing yet."""
OWNS = 2.0
"""Samples of a minibatch in effect, below which one has nearly all the weight."""
FAR = 3.0
"""Size of advantages, in units of beta, from which that is a matter of their scale and not of one outlier."""
ENDS, AT_END = 30.0, 0.1
"""Size of advantages, in units of beta, and share of clipped weights, from which hardly any is between 0 and the
largest."""
OWNS_STATE = 1.1
"""The same of the policy's own actions in a state, of which there are a few only."""
FAR_OFF = 1000.0
"""Error of a critic in units of its network, from which that has too far to go: it begins near 0, and moves by steps of
about the learning rate."""


class Alarm:
    """Warns once, of the first trouble that two records in a row show.

    Weights may be nearly all clipped, on one sample, or with nothing between; values may be out of a network's reach.
    """

    def __init__(self, config: Settings):
        self._config, self._before, self._warned, self._at = config, False, False, -1.0

    def __call__(self, record: Mapping[str, float]) -> None:
        """Look at a record of a run's metrics."""
        # In rounds, several records may be of the same.
        if record["gradient_steps"] < WARM or record["gradient_steps"] == self._at or self._warned:
            return
        self._at = record["gradient_steps"]
        found = self._of_weights(record) or self._of_values(record)
        if found and self._before:
            self._warned = True
            warnings.warn(found, stacklevel=2)
        self._before = bool(found)

    def _of_values(self, record: Mapping[str, float]) -> str:
        """Return that the critic is far from its targets and the way out; nothing if it is near them."""
        scale, loss = getattr(self._config, "value_scale", None), record.get("critic/loss", 0.0)
        if scale is None or not FAR_OFF**2 < loss < math.inf:
            return ""
        off = float(f"{scale * math.sqrt(loss):.1g}")
        # A fixed temperature has to fit the rewards too.
        other = "" if getattr(self._config, "beta", None) else f", or set value_scale to about {off:,.0f}"
        return (
            f"The critic is off by about {off:,.0f} after {record['gradient_steps']:,.0f} gradient steps, which its "
            f"network takes very long to learn. Divide the rewards by about {off:,.0f}{other}."
        )

    def _of_weights(self, record: Mapping[str, float]) -> str:
        """Return what is wrong with the weights and the way out, in two sentences; nothing if they are in order."""
        config, beta = self._config, getattr(self._config, "beta", None)
        # Weights of 0 and 1, and a temperature that is solved for, do not depend on the scale of the rewards.
        if beta is None or getattr(config, "weights", "") == "binary":
            return ""
        share = record.get("weight/effective_sample_size", 1.0)
        if "weight/kl" in record:
            return self._trouble_of_own_actions(record, beta, share)
        clipped = record.get("weight/clipped_fraction", 0.0)
        size = math.hypot(record.get("advantage/mean", 0.0), record.get("advantage/std", 0.0))
        owned = share * config.batch_size < OWNS and not size < FAR * beta
        ends = clipped > AT_END and size > ENDS * beta
        if not (clipped > CLIPPED or owned or ends):
            return ""
        what = "One sample has nearly all the weight of its minibatch, and the others teach nothing"
        if ends:
            what = (
                f"{clipped:.0%} of the weights are clipped and nearly all others are 0, so that an action a little "
                "better than average counts like the best"
            )
        if clipped > CLIPPED:
            what = f"{clipped:.0%} of the weights are clipped, so that good actions are imitated like bad ones"
        if not beta < size < math.inf:
            return f"{what}. Raise beta={beta:g}."
        by = float(f"{size / beta:.1g}")
        ways = [f"divide the rewards by about {by:,.0f}", f"set beta to about {by * beta:,.3g}"]
        ways += ["set normalize_advantage=True"] if getattr(config, "normalize_advantage", None) is False else []
        rest = ", ".join(ways[:-1])
        return f"{what}: advantages are of about {size:,.2g}, and beta={beta:g}. Either {rest}, or {ways[-1]}."

    def _trouble_of_own_actions(self, record: Mapping[str, float], beta: float, share: float) -> str:
        """Return the same of weights among the policy's own actions in each state, as MPO has them."""
        n = getattr(self._config, "n_action_samples", math.inf)
        # Of choices, one may well have all the weight: it is the best.
        if "policy/std" not in record or not share * n < OWNS_STATE:
            return ""
        size = record.get("advantage/std", 0.0)
        told = f"values differ by about {size:,.2g} there, and beta={beta:g}"
        return (
            f"One of the policy's {n} actions in each state has nearly all the weight: {told}. Set beta to about "
            f"{size:,.2g}, or leave it out, so that it is solved for."
        )
