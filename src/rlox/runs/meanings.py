"""What the metrics of a run mean, and how to read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rlox.runs.history import Run


class Meaning(NamedTuple):
    """Of one metric."""

    title: str
    unit: str
    """Name of its axis."""
    reading: str
    """One or two sentences: what it is, and how to read it."""


SECTIONS: Mapping[str, Mapping[str, Meaning]] = {
    "Episodes": {
        "rollout/episode_return": Meaning(
            "Return in training",
            "mean return of the last 100 training episodes",
            "Actions are sampled here, so it usually lies below the evaluations. A large distance between the two "
            "says that the policy still explores.",
        ),
        "rollout/episode_length": Meaning(
            "Length of training episodes",
            "steps, mean of the last 100 training episodes",
            "Where surviving is the task, longer is better. Where a goal ends the episode, shorter is.",
        ),
        "eval/mean_length": Meaning(
            "Length of evaluation episodes",
            "steps",
            "Mean over the episodes of an evaluation. At the environment's time limit, episodes are cut, not ended.",
        ),
    },
    "Weights and advantages": {
        "weight/effective_sample_size": Meaning(
            "Effective sample size",
            "share of the minibatch",
            "1 means that all samples count alike, as in plain imitation. Below about 0.05 a handful of samples "
            "decides each step: raise beta, or whiten the advantages. Of MPO it is the share of the policy's own "
            "actions in a state, of which one may be all that counts.",
        ),
        "weight/replay_effective_sample_size": Meaning(
            "Effective sample size of the replay's actions",
            "share of the states",
            "Of the part of the fit that replay_share sets. Below about 0.05 a handful of transitions decides it.",
        ),
        "weight/beta": Meaning(
            "Temperature",
            "return",
            "It divides Q, and follows the spread of Q over the policy's actions: it grows with the returns, and falls "
            "as the policy narrows.",
        ),
        "weight/lambda": Meaning(
            "Price of entropy",
            "share of beta a nat",
            "At 1 the entropy stays below its target whatever it costs: lower target_std or target_entropy, or raise "
            "epsilon. Near 0 the policy is wider than its target by itself.",
        ),
        "weight/kl": Meaning(
            "Step of the weights",
            "nats",
            "KL divergence of the weights, without the price of entropy, from the policy: epsilon, if beta is solved "
            "for.",
        ),
        "weight/clipped_fraction": Meaning(
            "Clipped weights",
            "share of the minibatch",
            "Share of weights at max_advantage. Above about 0.3, good actions are no longer told apart: raise beta.",
        ),
        "weight/mean": Meaning(
            "Mean weight",
            "weight",
            "If mean and largest weight are both near 1, this is plain behaviour cloning: lower beta.",
        ),
        "weight/max": Meaning(
            "Largest weight",
            "weight",
            "Of the minibatch. A flat line at max_advantage means that the best samples are cut off.",
        ),
        "advantage/mean": Meaning(
            "Mean advantage",
            "return",
            "How much better than expected the outcomes were, after the critic's step. Near 0 once the critic has "
            "caught up.",
        ),
        "advantage/std": Meaning(
            "Spread of the advantages",
            "return, standard deviation",
            "Compare it with beta, which divides the advantage. Far above beta, few samples get all the weight; far "
            "below, all weigh alike.",
        ),
    },
    "Critic": {
        "critic/explained_variance": Meaning(
            "Explained variance",
            "share of the targets' variance",
            "How much of its targets the critic predicts; 1 is best. Below 0 it is worse than a constant, and "
            "advantages are noise.",
        ),
        "critic/loss": Meaning(
            "Critic loss",
            "squared return",
            "Of the last minibatch. It grows with the returns themselves, so that a rising line alone is no trouble.",
        ),
    },
    "Policy": {
        "policy/entropy": Meaning(
            "Entropy",
            "nats",
            "How undecided the policy is. A fast fall to 0 means that the weights are too sharp: raise beta or "
            "entropy_coef.",
        ),
        "policy/std": Meaning(
            "Standard deviation of the actions",
            "half of the action range",
            "A fast fall to min_std means that the weights are too sharp: it stops exploring before it is good.",
        ),
        "policy/anchor_kl": Meaning(
            "Distance from the copy of the actor",
            "nats",
            "KL divergence from the copy that draws the actions, by the change of the mean and by that of the standard "
            "deviation.",
        ),
        "actor/loss": Meaning(
            "Actor loss",
            "nats, weighted",
            "Does not show progress, since its weights change all the time. Look here for jumps only.",
        ),
    },
    "Speed": {
        "time/env_steps_per_second": Meaning(
            "Environment steps a second",
            "steps a second",
            "Mean since this call of train began, evaluations included. It falls once learning starts after the first "
            "random steps.",
        ),
        "time/gradient_steps_per_second": Meaning(
            "Gradient steps a second",
            "steps a second",
            "Mean since this call of train began, evaluations included.",
        ),
    },
}
"""In the order in which they are shown."""

OTHERS = "Other metrics"
SPREAD = Meaning(
    "Spread of the evaluations",
    "return",
    "Line: mean over the episodes of an evaluation. Dark band: one standard deviation around it. Light band: worst to "
    "best episode; where it reaches far below the line, some episodes still fail.",
)
_APART = (
    "eval/mean_reward",
    "eval/std_reward",
    "eval/min_reward",
    "eval/max_reward",
    "eval/n_episodes",
    "time/seconds",
)
"""Shown in a picture of their own, or not at all."""


def meaning(name: str) -> Meaning:
    """Return what is known of a metric; of one that an algorithm of your own reports, its name only."""
    return next((known[name] for known in SECTIONS.values() if name in known), Meaning(name, name, ""))


def sections(names: Iterable[str]) -> dict[str, list[str]]:
    """Return headings and the metrics below them, of those that there are."""
    there = [name for name in dict.fromkeys(names) if name not in _APART]
    known = {heading: [name for name in table if name in there] for heading, table in SECTIONS.items()}
    placed = {name for found in known.values() for name in found}
    known[OTHERS] = [name for name in there if name not in placed]
    return {heading: found for heading, found in known.items() if found}


def axis_of(*, offline: bool) -> str:
    """Return the name of the axis of steps."""
    return "gradient steps" if offline else "environment steps"


def axis_of_returns(run: Run) -> str:
    """Return the name of the axis of a run's returns."""
    if run.return_name != "eval/mean_reward":
        return meaning("rollout/episode_return").unit
    counted = [record["eval/n_episodes"] for record in run.records if record.get("eval/n_episodes")]
    return f"mean return of {counted[-1]:.0f} evaluation episodes" if counted else "mean return of evaluation episodes"
