"""What the numbers of a run say of its health: trouble in plain words, and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlox.runs.history import Run, Series

CLIPPED = 0.9
"""Share of clipped weights from which on nearly all of them are."""
FEW_SAMPLES = 0.01
"""Effective sample size, as a share of the minibatch, below which next to nothing is learned from."""
NEAR_FLOOR = 1.02
"""Standard deviations up to this multiple of ``min_std`` are at their floor."""
FELL = 0.5
"""Share of what the returns had gained, from which on a loss of it is a fall."""
ALIKE = 0.2
"""Share of the largest spread of the advantages below which the returns are all alike."""
FEWEST = 4
"""Records of a metric without which nothing is said of it."""


class Finding(NamedTuple):
    """One trouble."""

    what: str
    """A short sentence, the same for all runs that have it."""
    why: str
    """The numbers that show it, and what they mean."""
    try_: str
    """What to do about it."""


def diagnose(run: Run) -> list[Finding]:
    """Return what is wrong with a run as far as its records show it, the worst first; an empty list if nothing is."""
    checks = (
        _learned_nothing, _diverged, _fell, _clipped, _few_samples, _at_floor, _worse_than_constant, _not_evaluated,
    )  # fmt: skip
    return [finding for check in checks if run.records for finding in [check(run)] if finding]


def _advice(run: Run, **settings: str) -> str:
    """Return what to do with those settings that the run has, in a sentence."""
    config = run.spec.get("config", {})
    # Neither rounds nor a batch-normalised critic have a target that follows.
    idle = {"tau"} if config.get("rollout_steps") or config.get("batch_norm") else set[str]()
    found = [told.format(name) for name, told in settings.items() if name in config and name not in idle][:4]
    text = ", or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found or ["see its settings"])
    return f"{text[:1].upper()}{text[1:]}."


def _late(run: Run, name: str) -> float:
    """Return the median of the last quarter of a metric; nan of too few records."""
    values = run.series(name, offline=run.learned_offline_only).values
    return float(np.median(values[-max(len(values) // 4, 1) :])) if len(values) >= FEWEST else np.nan


def _learned_nothing(run: Run) -> Finding | None:
    # Files of before do not count gradient steps; only folders have their speed.
    counted = "time/gradient_steps_per_second" in run.names
    if not counted or not run.is_over or run.records[-1]["gradient_steps"]:
        return None
    config = run.spec.get("config", {})
    names = ["learning_starts", "batch_size", "random_episodes", "rollout_steps"]
    waits = [f"{name}={config[name]:,}" for name in names if isinstance(config.get(name), int) and config[name]]
    why = f"No update was made within {run.records[-1]['env_steps']:,} environment steps"
    return Finding(
        "Nothing was learned.",
        f"{why}: {', '.join(waits)}." if waits else f"{why}.",
        f"Train longer{', or lower these settings' if waits else ''}.",
    )


def _diverged(run: Run) -> Finding | None:
    for record in run.records:
        for name in ("critic/loss", "actor/loss", "eval/mean_reward"):
            if name in record and record[name] is None:
                return Finding(
                    "Training diverged.",
                    f"After {record['env_steps']:,} environment steps and {record['gradient_steps']:,} gradient steps, "
                    f"{name} was no longer a finite number.",
                    _advice(run, learning_rate="lower {}", max_grad_norm="set {} to 1", gamma="scale the rewards down"),
                )
    return None


def _fell(run: Run) -> Finding | None:
    found = run.series("eval/mean_reward", offline=run.learned_offline_only)
    if len(found.values) < FEWEST:
        return None
    first, best, last = found.values[0], found.values.max(), np.median(found.values[-2:])
    if best - last <= max(FELL * (best - first), _noise(run, found)):
        return None
    at = f"{found.steps[found.values.argmax()]:,.0f}"
    return Finding(
        "Returns fell well below their best.",
        f"The best evaluation, at step {at}, had a mean return of {best:,.4g}; the last ones are at {last:,.4g}.",
        "The best policy is kept: rlox evaluate RUN/best.safetensors. "
        + _advice(run, learning_rate="lower {}", actor_decay_steps="set {} to the run's length", tau="lower {}"),
    )


def _noise(run: Run, found: Series) -> float:
    """Return twice the standard error of the best evaluation's and the last one's difference, as far as it is known."""
    offline = run.learned_offline_only
    stds, counts = (run.series(f"eval/{name}", offline=offline) for name in ("std_reward", "n_episodes"))
    if len(stds.values) != len(found.values) or len(counts.values) != len(found.values):
        return 0.0
    errors = stds.values**2 / np.maximum(counts.values, 1)
    return 2 * float(np.sqrt(errors[found.values.argmax()] + errors[-1]))


def _clipped(run: Run) -> Finding | None:
    share = _late(run, "weight/clipped_fraction")
    if not share > CLIPPED:
        return None
    return Finding(
        "Nearly all weights are clipped.",
        f"{share:.0%} of the weights are at max_advantage, so that good actions count no more than the others.",
        _advice(run, beta="raise {}", normalize_advantage="set {}"),
    )


def _few_samples(run: Run) -> Finding | None:
    share = _late(run, "weight/effective_sample_size")
    # Of the policy's own choices in a state, as MPO weighs them, one may well have all the weight: it is the best.
    if not share < FEW_SAMPLES or "weight/kl" in run.names:
        return None
    return Finding(
        "A handful of samples has all the weight.",
        f"The effective sample size is {share:.2%} of the minibatch: each step imitates a few actions only.",
        _advice(run, beta="raise {}", normalize_advantage="set {}"),
    )


def _at_floor(run: Run) -> Finding | None:
    config, std = run.spec.get("config", {}), _late(run, "policy/std")
    floor = config.get("min_std")
    if not isinstance(floor, int | float) or not config.get("learn_std", True) or not std <= floor * NEAR_FLOOR:
        return None
    return Finding(
        "The standard deviation is at its floor.",
        f"policy/std is {std:.3g}, and min_std is {floor:g}: the policy no longer explores.",
        "If returns are still low, raise min_std, entropy_coef or beta.",
    )


def _worse_than_constant(run: Run) -> Finding | None:
    share = _late(run, "critic/explained_variance")
    spread = run.series("advantage/std", offline=run.learned_offline_only).values
    # Where all returns are alike, as in a solved environment, there is no variance to explain.
    alike = len(spread) >= FEWEST and _late(run, "advantage/std") < ALIKE * spread.max()
    if not share < 0 or alike:
        return None
    return Finding(
        "The critic predicts worse than a constant.",
        f"Late in training, explained variance is {share:.2f}: advantages are mostly noise.",
        _advice(
            run,
            critic_learning_rate="lower {}",
            tau="lower {}",
            n_critic_updates="raise {}",
            value_scale="set {} to about 1 / (1 - gamma)",
            learning_rate="lower {}",
        ),
    )


def _not_evaluated(run: Run) -> Finding | None:
    if "eval/mean_reward" in run.names:
        return None
    if run.learned_offline_only:
        told = "There is no environment, so no return is known."
        return Finding(
            "Nothing was evaluated.", told, "Estimate returns from other data: rlox evaluate RUN --dataset DATA."
        )
    return Finding(
        "Nothing was evaluated.",
        "The only returns are those of training episodes, in which actions are sampled.",
        "Train with --eval-interval, such as a twentieth of the steps, or run rlox evaluate RUN.",
    )


def together(runs: Sequence[Run]) -> list[tuple[Finding, list[Run]]]:
    """Return the findings of several runs, each once, with the runs that have it; its numbers are the first one's."""
    found: dict[str, tuple[Finding, list[Run]]] = {}
    for run in runs:
        for finding in diagnose(run):
            found.setdefault(finding.what, (finding, []))[1].append(run)
    return list(found.values())
