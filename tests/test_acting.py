"""What reaches the environment: its seeds, and actions of the policy in what the environment has just shown."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from probes import ACTION_SPACES, Diary
from rlox import Dataset, Trainer
from rlox.policy.episodes import RandomPolicy

STARTS = 20
STD = 0.1
UNIT = 2.5
"""Half the range of the continuous actions."""
STILL: dict[str, Any] = {
    "hidden": 8, "batch_size": 16, "learning_starts": STARTS, "learning_rate": 1e-30, "actor_output_scale": 0.1,
    "learn_std": False, "initial_std": STD, "normalize_obs": True, "normalize_obs_until": STARTS,
}  # fmt: skip
"""Learns next to nothing, so that all the actions of a training are those of the policy after it."""
MODES = {**STILL, "initial_std": 1e-6}


def deviations(trainer: Trainer, env: Diary, begin: int = 0) -> Any:
    """Return how far the actions from the step ``begin`` on are from the modes, in units of half the range."""
    modes = trainer.predict(np.stack(env.shown[begin:]))
    assert len(np.unique(modes.round(3))) > len(modes) / 2, "the observations make no difference"
    return (np.stack(env.actions[begin:]) - modes)[:, 0] / UNIT


def are_samples(deviation: Any) -> None:
    assert deviation.mean() == pytest.approx(0, abs=0.03)
    assert deviation.std() == pytest.approx(STD, abs=0.02)
    assert abs(np.corrcoef(deviation[1:], deviation[:-1])[0, 1]) < 0.25


@pytest.mark.long
@pytest.mark.parametrize(
    "rounds",
    [{}, {"rollout_steps": 30}, {"rollout_steps": 30, "overlap": True}],
    ids=["every step", "rounds", "overlapped"],
)
def test_learning_acts_by_samples_of_the_policy_in_whitened_observations(rounds: dict[str, int]):
    env = Diary()
    trainer = Trainer("awr", env, config={**STILL, **rounds})
    trainer.train(240, progress=False)
    # What acts in the steps after the first round may be older than the normaliser.
    are_samples(deviations(trainer, env, 60))
    assert deviations(trainer, env)[: STARTS - 1].std() > 4 * STD, "no random actions"


def test_an_evaluation_takes_the_modes_and_on_demand_samples():
    env = Diary()
    trainer = Trainer("awr", env, config=STILL)
    trainer.train(30, progress=False)
    env.forget()
    found = trainer.evaluate(5)
    np.testing.assert_allclose(deviations(trainer, env), 0, atol=1e-6)
    returns = np.stack(env.actions).reshape(5, env.length).sum(axis=1)
    assert found == pytest.approx(
        {
            "mean_reward": returns.mean(), "std_reward": returns.std(), "min_reward": returns.min(),
            "max_reward": returns.max(), "mean_length": env.length, "n_episodes": 5,
        }
    )  # fmt: skip
    env.forget()
    trainer.evaluate(20, deterministic=False)
    are_samples(deviations(trainer, env))


def test_evaluations_are_the_same_again_and_a_seed_changes_them():
    env = Diary()
    trainer = Trainer("awr", env, config=STILL)
    trainer.train(30, progress=False)
    env.forget()
    assert trainer.evaluate(2) == trainer.evaluate(2)
    assert trainer.evaluate(2, deterministic=False) == trainer.evaluate(2, deterministic=False)
    assert len(set(env.seeds)) == 1
    trainer.evaluate(2, seed=5)
    assert env.seeds[-1] == 5


def test_the_action_after_an_evaluation_answers_the_new_episode():
    env = Diary()
    trainer = Trainer("awr", env, config=MODES)
    trainer.train(30, progress=False)
    deviation = np.abs(deviations(trainer, env))
    assert deviation[STARTS - 2] > 0.1 > deviation[STARTS - 1 :].max(), "the first action of the policy's own"
    trainer.evaluate(1)
    env.forget()
    trainer.train(3, progress=False)
    assert len(env.seeds) == 1, "no new episode"
    np.testing.assert_allclose(deviations(trainer, env), 0, atol=1e-3)


def logged(n: int = 40) -> Dataset:
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal([300, -5], [10, 1], (n, 2)), "actions": rng.uniform(-2, 3, (n, 1)),
        "rewards": rng.normal(size=n), "terminals": np.ones(n),
    }  # fmt: skip
    return Dataset.from_arrays(columns, action_space=ACTION_SPACES["continuous"])


@pytest.mark.long
def test_the_action_after_learning_offline_is_that_of_the_policy_learned():
    env = Diary()
    trainer = Trainer("awr", env, dataset=logged(), config=MODES | {"learning_rate": 0.1})
    trainer.train(30, progress=False)
    before = trainer.predict(env.obs)
    trainer.train_offline(5, progress=False)
    after = trainer.predict(env.obs)
    assert abs(after - before) > 0.01
    trainer.train(1, progress=False)
    np.testing.assert_allclose(env.actions[-1], after, atol=1e-3)


def test_after_learning_offline_not_even_the_first_action_is_random():
    env = Diary()
    trainer = Trainer("awr", env, dataset=logged(), config=MODES | {"normalize_obs_until": 1})
    trainer.train_offline(1, progress=False)
    trainer.train(10, progress=False)
    assert np.abs(deviations(trainer, env)).max() < 0.02


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_the_seed_decides_first_observations_and_random_actions(kind: str):
    first, again, other = envs = [Diary(kind) for _ in range(3)]
    for env, seed in zip(envs, (3, 3, 4), strict=True):
        Trainer("awr", env, config={"hidden": 8, "learning_starts": 100}, seed=seed).train(40, progress=False)
    assert first.seeds == again.seeds != other.seeds
    np.testing.assert_array_equal(first.shown, again.shown)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert (first.firsts[0] != other.firsts[0]).all()
    assert (np.array(first.actions) != np.array(other.actions)).mean() > 0.2


def test_the_random_policy_knows_its_odds():
    for space, volume in ((ACTION_SPACES["continuous"], 5), (spaces.Discrete(4), 4), (spaces.MultiDiscrete([2, 3]), 6)):
        policy = RandomPolicy(spaces.Box(-1, 1, (1,)), space, seed=0)
        actions = np.concatenate([policy.predict(np.zeros((1, 1))) for _ in range(3)])
        np.testing.assert_allclose(policy.log_prob(np.zeros((3, 1)), actions), [-np.log(volume)] * 3)


def test_environments_made_from_a_callable_are_not_the_same_one():
    made: list[Diary] = []

    def make() -> Diary:
        made.append(Diary(length=5))
        return made[-1]

    Trainer("awr", make, config={"hidden": 8, "learning_starts": 100, "n_envs": 3}).train(30, progress=False)
    first, second, third = (env for env in made if env.shown)
    assert len(first.shown) == len(second.shown) == len(third.shown) == 10
    assert len({env.seeds[0] for env in (first, second, third)}) == 3
    assert not np.array_equal(first.actions, second.actions)
