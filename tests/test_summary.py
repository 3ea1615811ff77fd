"""What is said about logged data: numbers against NumPy's; a sentence for what is suspicious, none for what is not."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlox import Dataset
from rlox.data.summary import format_summary

N = 400


def table(**changes: Any) -> dict[str, Any]:
    """Return ten episodes of 20 to 60 steps in which nothing is suspicious."""
    rng = np.random.default_rng(0)
    ends = np.zeros(N, bool)
    ends[np.cumsum([20, 60, 40, 40, 30, 50, 40, 45, 35, 40]) - 1] = True
    failed = ends & (np.cumsum(ends) % 2 == 0)
    made = {
        "observations": rng.normal(2, 3, (N, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (N, 2)).astype(np.float32),
        "rewards": rng.normal(size=N),
        "terminals": failed,
        "timeouts": ends & ~failed,
    }
    return {**made, **changes}


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(columns: Any, what: str) -> Any:
        return (slice(at, min(at + 37, N)) for at in range(0, N, 37))

    monkeypatch.setattr("rlox.data.summary.pieces", small)


def test_numbers_are_those_of_the_whole_columns(monkeypatch: pytest.MonkeyPatch):
    small_pieces(monkeypatch)
    made = table()
    dataset = Dataset.from_arrays(made, name="logs")
    summary = dataset.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["name"], summary["steps"], summary["episodes"]) == ("logs", N, 10)
    assert (summary["terminated"], summary["truncated"]) == (0.5, 0.5)
    for key in ("observations", "actions"):
        found = summary["observations"]["observations"] if key == "observations" else summary["actions"]
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(found[name], getattr(np, name)(made[key].astype(float), axis=0), rtol=1e-9)
    stops = np.flatnonzero(made["terminals"] | made["timeouts"]) + 1
    returns = np.array([part.sum() for part in np.split(made["rewards"], stops[:-1])])
    assert summary["returns"]["mean"] == pytest.approx(returns.mean())
    assert summary["returns"]["q75"] == pytest.approx(np.quantile(returns, 0.75))
    assert (summary["lengths"]["min"], summary["lengths"]["max"]) == (20, 60)
    assert summary["rewards"]["max"] == made["rewards"].max()
    assert summary["suspicious"] == []


def test_large_offsets_do_not_hide_the_spread(monkeypatch: pytest.MonkeyPatch):
    small_pieces(monkeypatch)
    obs = 1e8 + np.random.default_rng(0).normal(size=(N, 1))
    summary = Dataset.from_arrays(table(observations=obs)).summary()
    assert summary["observations"]["observations"]["std"] == pytest.approx([obs.std()], rel=1e-6)


def test_actions_cover_a_part_of_their_space():
    actions = np.linspace(0, 1, N)[:, None] * [1.0, 0.05]
    covered = Dataset.from_arrays(table(actions=actions)).summary()["actions"]
    # Bins of 0.2 from -1: one half of the first range, and the bin around 0 of the second.
    assert covered["bins_covered"] == [0.5, 0.1]
    assert covered["at_bounds"] == [1 / N, 0.0]
    choices = np.repeat([1, 3], [100, N - 100])
    space = spaces.Discrete(4, start=1)
    summary = Dataset.from_arrays(table(actions=choices), action_space=space).summary()
    assert summary["actions"]["frequency"] == [[0.25, 0.0, 0.75, 0.0]]
    assert summary["actions"]["never_taken"] == [[2, 4]]
    assert summary["suspicious"] == ["The action is never 2 or 4: nothing can be learned about them."]


def odd(column: int, values: Any) -> np.ndarray:
    obs = table()["observations"].copy()
    obs[:, column] = values if not callable(values) else values(obs)
    return obs


def copied(made: dict[str, Any]) -> dict[str, Any]:
    return {name: np.concatenate([column, column]) for name, column in made.items()}


def stuck(made: dict[str, Any]) -> dict[str, Any]:
    inside = np.arange(N) % 5 == 3
    return {
        name: np.where(inside.reshape(-1, *[1] * (column.ndim - 1)), np.roll(column, 1, axis=0), column)
        if column.dtype != bool
        else column
        for name, column in made.items()
    }


ends = table()["terminals"] | table()["timeouts"]
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "constant": (table(observations=odd(1, 0.5)), "observations[1] is 0.5 in every row."),
    "constant action": (table(actions=np.zeros((N, 1))), "actions is 0 in every row."),
    "twins": (table(observations=odd(2, lambda obs: obs[:, 0])), "observations[2] is the same as observations[0]"),
    "large": (table(observations=odd(0, lambda obs: obs[:, 0] * 1e5)), "observations[0]: values up to "),
    "no terminals": (table(terminals=np.zeros(N), timeouts=ends), "No episode ends in a terminal state"),
    "one reward": (table(rewards=np.ones(N)), "Every reward is 1: only the length of an episode tells"),
    "short": (table(terminals=np.ones(N)), "400 of 400 episodes have one step only."),
    "copies": (copied(table()), "10 of 20 episodes are copies of others, step for step."),
    "stuck": (stuck(table()), "80 of 400 steps repeat the step before them"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_gets_one_sentence(case: str):
    made, sentence = ODD[case]
    suspicious = Dataset.from_arrays(made).summary()["suspicious"]
    assert len(suspicious) == 1, suspicious
    assert sentence in suspicious[0]


def test_what_is_usual_gets_none():
    rng = np.random.default_rng(0)
    # A gridworld: few states, few choices, the same rows again and again.
    obs, actions = rng.integers(0, 2, (N, 4)).astype(np.float32), rng.integers(0, 4, N)
    usual = table(observations=obs, actions=actions, rewards=(rng.random(N) < 0.1).astype(float))
    assert Dataset.from_arrays(usual).summary()["suspicious"] == []


def test_named_observations_and_images_are_summarised():
    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 5), np.uint8)
    made = table(observations={"image": images, "goal": np.arange(N) / N})
    summary = Dataset.from_arrays(made).summary()
    assert set(summary["observations"]) == {"observations/image", "observations/goal"}
    assert summary["observations"]["observations/image"]["mean"] == pytest.approx([images.mean()])
    assert summary["suspicious"] == []


def test_without_a_whole_episode_nothing_is_said_about_them():
    made = {name: column[:30] for name, column in table().items()}
    summary = Dataset.from_arrays({**made, "terminals": np.arange(30) == 0, "timeouts": np.zeros(30)}).summary()
    assert summary["episodes"] == 1
    made = Dataset.from_arrays({**made, "terminals": np.arange(30) == 29, "timeouts": np.zeros(30)})
    summary = dataclasses.replace(made, partial=(True, False)).summary()
    assert (summary["episodes"], summary["returns"], summary["lengths"]) == (0, None, None)
    assert "0 whole episodes" in format_summary(summary)


@pytest.mark.parametrize("case", ODD)
def test_the_text_has_what_matters_and_fits_a_terminal(case: str):
    summary = Dataset.from_arrays(ODD[case][0], name="logs").summary()
    text = format_summary(summary)
    assert f"logs: {summary['steps']} steps, {summary['episodes']} whole episodes" in text
    assert ODD[case][1] in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("-")) <= 100
    assert format_summary({**summary, "suspicious": []}).count("Suspicious") == 0
