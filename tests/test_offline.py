"""Learning from data alone, and from data and an environment after it."""

import contextlib
import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from probes import AIMS, DelayedReward, ObservedActionReward
from rlox import Dataset, Trainer
from rlox.errors import CheckpointError, ConfigError

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 32, "learning_rate": 5e-3}
ROUNDS = {**SMALL, "rollout_steps": 64, "n_critic_updates": 20, "n_actor_updates": 20, "td_lambda": 0.9}
pytestmark = pytest.mark.filterwarnings("ignore:replay_share=0")  # these data hold all there is to do

SETTINGS: dict[str, dict[str, Any]] = {
    "awr": {**SMALL, "beta": 0.2},
    "awr in rounds": {**ROUNDS, "beta": 0.2},
    "marwil": {**SMALL, "beta": 0.2, "rollout_steps": 64, "n_critic_updates": 20, "n_actor_updates": 20},
    "awac": {**SMALL, "beta": 0.2, "tau": 0.1},
    "crr": {**SMALL, "beta": 0.2, "tau": 0.1},
    "iql": {**SMALL, "beta": 0.2, "tau": 0.1},
    "mpo": {**SMALL, "n_states": 32},
    "mpo near the data": {**SMALL, "n_states": 32, "replay_share": 0.5},
}
SETTINGS["bc"] = SMALL


@functools.cache
def logged(kind: str = "discrete", n: int = 600) -> Dataset:
    """Return steps of a random agent in the probe that pays for what is seen and done."""
    env: Any = ObservedActionReward(kind)
    env.action_space.seed(0)
    rows = []
    for seed in range(n):
        obs, _ = env.reset(seed=seed)
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    return Dataset.from_arrays(
        {name: np.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)},
        observation_space=env.observation_space, action_space=env.action_space,
    )  # fmt: skip


def choices(trainer: Trainer) -> Any:
    return trainer.predict(np.array([[-1.0], [1.0]], np.float32))


@pytest.mark.long
@pytest.mark.parametrize("case", [name for name in SETTINGS if name != "bc"])
def test_every_algorithm_does_better_than_the_random_agent_that_it_learns_from(case: str):
    trainer = Trainer(case.split()[0], dataset=logged(), config=SETTINGS[case], seed=0)
    metrics = trainer.train_offline(600, progress=False)
    assert choices(trainer).tolist() == [0, 1]
    assert metrics["gradient_steps"] == trainer.gradient_steps >= 600
    assert trainer.env_steps == 0
    assert metrics["time/gradient_steps_per_second"] > 0


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:One sample has nearly all the weight")  # so low a beta says that
@pytest.mark.parametrize("case", ["awac", "iql", "mpo"])
def test_continuous_actions_move_towards_the_paid_ones(case: str):
    trainer = Trainer(case, dataset=logged("continuous"), config={**SETTINGS[case], "beta": 0.05}, seed=0)
    trainer.train_offline(1500, progress=False)
    np.testing.assert_allclose(choices(trainer)[:, 0], AIMS, atol=0.4)


@pytest.mark.long
def test_cloning_takes_the_actions_as_often_as_the_data():
    dataset = logged()
    trainer = Trainer("bc", dataset=dataset, config=SMALL, seed=0)
    metrics = trainer.train_offline(500, progress=False)
    obs = np.asarray(dataset.columns["observations"])
    policy: Any = trainer.state.actor(jnp.asarray(obs))
    probabilities = jax.nn.softmax(policy.logits)
    for side in (-1.0, 1.0):
        own = obs[:, 0] == side
        assert float(probabilities[own, 1].mean()) == pytest.approx(dataset.columns["actions"][own].mean(), abs=0.05)
    assert "critic/loss" not in metrics


def test_an_environment_evaluates_what_is_learned_from_data():
    trainer = Trainer("iql", env=ObservedActionReward(), dataset=logged(), config=SETTINGS["iql"], seed=0)
    metrics = trainer.train_offline(600, eval_interval=300, progress=False)
    assert metrics["eval/mean_reward"] == 1.0
    assert trainer.evaluate(5)["mean_reward"] == 1.0


def test_the_same_seed_learns_the_same_and_another_differs():
    first, second, other = (Trainer("crr", dataset=logged(), config=SETTINGS["crr"], seed=seed) for seed in (0, 0, 1))
    for trainer in (first, second, other):
        trainer.train_offline(50, progress=False)
    leaves = [jax.tree.leaves(trainer.state.actor) for trainer in (first, second, other)]
    assert all(np.array_equal(a, b) for a, b in zip(leaves[0], leaves[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(leaves[0], leaves[2], strict=True))


@pytest.mark.long
@pytest.mark.parametrize("case", ["iql", "awr in rounds"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(case: str, tmp_path: Path):
    algorithm, dataset = case.split()[0], logged()
    whole, part = (Trainer(algorithm, dataset=dataset, config=SETTINGS[case], seed=0) for _ in range(2))
    whole.train_offline(100, progress=False)
    part.train_offline(40, log_interval=7, progress=False)
    part.save(tmp_path)
    resumed = Trainer.load(tmp_path, dataset=dataset)
    resumed.train_offline(60, progress=False)
    assert resumed.gradient_steps == whole.gradient_steps
    for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(raw(one), raw(other))


def raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def test_a_file_is_found_again_when_its_run_is_loaded(tmp_path: Path):
    np.savez(tmp_path / "logs.npz", **dict[str, Any](logged().columns))
    with Trainer("bc", dataset=tmp_path / "logs.npz", config=SMALL, run_dir=tmp_path / "run") as trainer:
        trainer.train_offline(10, progress=False)
    with Trainer.load(tmp_path / "run") as again:
        again.train_offline(10, progress=False)
        assert again.gradient_steps == 20
    other = {**logged().columns, "rewards": np.zeros(len(logged()))}
    np.savez(tmp_path / "logs.npz", **dict[str, Any](other))
    with pytest.warns(UserWarning, match="not those that the run of .* has learned from"):
        Trainer.load(tmp_path / "run")
    (tmp_path / "logs.npz").unlink()
    with pytest.raises(ConfigError, match=r"cannot be used\. There is no file"):
        Trainer.load(tmp_path / "run").train_offline(10)


@pytest.mark.long
def test_the_environment_goes_on_where_the_data_ended():
    settings = {**SETTINGS["awr in rounds"], "learning_starts": 50}
    trainer = Trainer("awr", env=ObservedActionReward(), dataset=logged(), config=settings, seed=0)
    before = trainer.train_offline(600, progress=False)["gradient_steps"]
    metrics = trainer.train(200, progress=False)
    assert trainer.env_steps == 200
    assert metrics["gradient_steps"] > before
    # Not even the first steps are random ones.
    assert metrics["mean_reward"] > 0.5


@pytest.mark.long
@pytest.mark.parametrize("case", ["iql", "awr in rounds"])
def test_the_actor_waits_while_the_critic_learns_alone_after_the_switch(case: str):
    settings = {**SETTINGS[case], "learning_starts": 32, "critic_warmup_steps": 64}
    trainer = Trainer(case.split()[0], env=ObservedActionReward(), dataset=logged(), config=settings, seed=0)
    trainer.train_offline(20, progress=False)
    actor, critic = (copied(network) for network in (trainer.state.actor, trainer.state.critic))
    before = trainer.gradient_steps
    trainer.train(64, progress=False)
    assert trainer.gradient_steps == before
    assert same(actor, trainer.state.actor)
    assert not same(critic, trainer.state.critic)
    trainer.train(64, progress=False)
    assert trainer.gradient_steps > before
    assert not same(actor, trainer.state.actor)


@pytest.mark.long
def test_the_actor_waits_after_each_time_that_it_learned_offline():
    settings = {**SETTINGS["iql"], "learning_starts": 0, "critic_warmup_steps": 64}
    trainer = Trainer("iql", env=ObservedActionReward(), dataset=logged(), config=settings, seed=0)
    trainer.train(100, progress=False)
    trainer.train_offline(20, progress=False)
    before = trainer.gradient_steps
    trainer.train(64, progress=False)
    assert trainer.gradient_steps == before
    trainer.train(20, progress=False)
    assert trainer.gradient_steps > before


@pytest.mark.long
def test_nothing_waits_where_there_were_no_data():
    settings = {**SMALL, "learning_starts": 32, "critic_warmup_steps": 64}
    with pytest.warns(UserWarning, match="critic_warmup_steps=64 has no effect without a dataset"):
        trainer = Trainer("awr", env=ObservedActionReward(), config=settings, seed=0)
    assert trainer.train(64, progress=False)["gradient_steps"] == 33


def copied(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def same(one: Any, other: Any) -> bool:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def test_a_run_whose_file_is_gone_names_it_and_why(tmp_path: Path):
    logged().save(tmp_path / "logs.npz")
    with Trainer("bc", dataset=tmp_path / "logs.npz", config=SMALL, run_dir=tmp_path / "run") as trainer:
        trainer.train_offline(2, progress=False)
    (tmp_path / "logs.npz").rename(tmp_path / "moved.npz")
    with (
        Trainer.load(tmp_path / "run") as loaded,
        pytest.raises(ConfigError, match=r"logs\.npz.*There is no file.*Name them again: dataset= of Trainer"),
    ):
        loaded.train_offline(2, progress=False)
    with Trainer.load(tmp_path / "run", dataset=tmp_path / "moved.npz") as loaded:
        assert loaded.train_offline(2, progress=False)["gradient_steps"] == 4


def test_a_run_whose_data_are_gone_says_so_and_starts_with_no_random_steps(tmp_path: Path):
    trainer = Trainer("iql", env=ObservedActionReward(), dataset=logged(), config=SETTINGS["iql"], seed=0)
    trainer.train_offline(600, progress=False)
    trainer.save(tmp_path)
    resumed = Trainer.load(tmp_path, env=ObservedActionReward())
    with pytest.warns(UserWarning, match="Training continues without them"):
        metrics = resumed.train(100, progress=False)
    assert metrics["mean_reward"] > 0.5


@pytest.mark.parametrize("case", ["awr", "awr in rounds"])
def test_observations_are_whitened_by_the_statistics_of_the_data(case: str):
    settings = {**SETTINGS[case], "normalize_obs": True}
    trainer = Trainer("awr", dataset=logged(), config=settings)
    obs, normalizer = logged().columns["observations"][:], trainer.state.normalizer
    assert normalizer is not None
    np.testing.assert_allclose(normalizer.mean, obs.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose((normalizer.m2 / normalizer.count) ** 0.5, obs.std(axis=0), rtol=1e-5)


@pytest.mark.long
def test_a_preset_fits_the_kind_of_the_data_s_actions():
    discrete, continuous = (
        Trainer("awr", dataset=logged(kind), preset="paper", config={"n_envs": 8})
        for kind in ("discrete", "continuous")
    )
    configs: Any = discrete.config, continuous.config
    assert [config.logit_coef for config in configs] == [0.001, 0.0]


@pytest.mark.long
@pytest.mark.parametrize("settings", [{"n_envs": 4}, {"n_envs": 2, "n_workers": 2}])
def test_a_run_from_data_for_several_environments_is_loaded_without_one_and_with_them(
    tmp_path: Path, settings: dict[str, int]
):
    if "n_workers" in settings:
        pytest.importorskip("ray")
    config, run = {**SETTINGS["awr in rounds"], **settings}, tmp_path / "run"
    with Trainer("awr", dataset="cartpole-medium", config=config, run_dir=run) as trainer:
        trainer.train_offline(5, progress=False)
    with Trainer.load(run) as alone:
        alone.train_offline(5, progress=False)
    with Trainer.load(run, env="CartPole-v1") as acting:
        assert acting.train(40, progress=False)["env_steps"] >= 40
        learner: Any = acting._learner
        assert (learner.state.rollout is None) == ("n_workers" in settings), "collectors have buffers of their own"


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["awr in rounds", "awac"])
def test_a_run_from_data_for_several_environments_is_loaded_without_its_replay(tmp_path: Path, schedule: str):
    config = {**SETTINGS[schedule], "n_envs": 4}
    with Trainer(schedule.split()[0], dataset="cartpole-medium", config=config) as trainer:
        trainer.train_offline(5, progress=False)
        trainer.save(tmp_path / "run", replay=False)
    with Trainer.load(tmp_path / "run") as alone:
        alone.train_offline(5, progress=False)
    with Trainer.load(tmp_path / "run", env="CartPole-v1") as acting:
        assert acting.train(40, progress=False)["env_steps"] >= 40


def test_another_number_of_environments_than_the_checkpoint_has_is_told(tmp_path: Path):
    with Trainer("awr", "CartPole-v1", config=SMALL) as trainer:
        trainer.train(20, progress=False)
        trainer.save(tmp_path / "run")
    with (
        contextlib.closing(gym.make_vec("CartPole-v1", num_envs=2)) as env,
        pytest.raises(CheckpointError, match=r"is of 1 environment, but the one given steps 2: pass one that steps 1"),
    ):
        Trainer.load(tmp_path / "run", env=env)


def test_what_cannot_be_recorded_is_said():
    trainer = Trainer("bc", dataset=logged(), config=SMALL)
    with pytest.raises(ConfigError, match="record needs an environment"):
        trainer.record(10)
    with pytest.raises(ConfigError, match="The replay holds no steps"):
        trainer.replay_dataset()
    with pytest.raises(ConfigError, match="n_steps=0"):
        trainer.record(0)


class OneArray(gym.Env[Any, Any]):
    """Writes every observation into the same array, as simulators do: the number of the step."""

    observation_space, action_space = spaces.Box(0, 9, (1,)), spaces.Discrete(2)

    def __init__(self):
        self.obs = np.zeros(1, np.float32)

    def reset(self, **arguments: Any) -> Any:
        self.obs[:] = 0
        return self.obs, {}

    def step(self, action: Any) -> Any:
        self.obs += 1
        return self.obs, 0.0, bool(self.obs[0] == 3), False, {}


def test_recorded_observations_are_those_of_their_own_step():
    data = Trainer("awr", env=OneArray, config=SMALL).record(6)
    assert data.columns["observations"][:][:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert data.columns["next_observations"][:][:, 0].tolist() == [1, 2, 3, 1, 2, 3]


def test_recording_in_an_environment_of_its_own_leaves_the_training_as_it_was():
    actors = []
    for recorded in (False, True):  # one after the other, since the probe's instances share a space
        trainer = Trainer("awr", env=DelayedReward, config={**SMALL, "learning_starts": 32})
        trainer.train(50, progress=False)
        if recorded:
            trainer.record(5)
        trainer.train(50, progress=False)
        actors.append(trainer.state.actor)
    assert same(*actors)


def test_a_policy_is_recorded_in_whole_episodes_and_the_same_again():
    trainer = Trainer("awr", env=DelayedReward(), config=SMALL)
    first, second = (trainer.record(7, seed=3) for _ in range(2))
    assert len(first) >= 7
    assert not any(first.partial)
    for name in ("observations", "next_observations", "actions", "rewards", "terminals", "action_log_probs"):
        np.testing.assert_array_equal(first.columns[name][:], second.columns[name][:])
    modes = trainer.record(7, deterministic=True)
    np.testing.assert_array_equal(modes.columns["actions"][:], trainer.predict(modes.columns["observations"][:]))


def test_steps_that_only_reset_an_environment_are_not_recorded():
    env = SyncVectorEnv([OneArray], autoreset_mode=AutoresetMode.NEXT_STEP)
    data = Trainer("awr", env=env, config=SMALL).record(6)
    assert data.columns["observations"][:][:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert data.columns["next_observations"][:][:, 0].tolist() == [1, 2, 3, 1, 2, 3]


def test_recorded_log_probabilities_are_those_of_the_policy():
    trainer = Trainer("awr", env=DelayedReward("continuous"), config={**SMALL, "actor_output_scale": 1.0})
    data = trainer.record(12)
    obs, action, found = (data.columns[name][:] for name in ("observations", "actions", "action_log_probs"))
    assert len(np.unique(obs)) > 1
    np.testing.assert_allclose(found, trainer.log_prob(obs, action), atol=1e-4)


def test_what_is_missing_is_said():
    with pytest.raises(ConfigError, match="learns from data: pass Trainer"):
        Trainer("iql", env="CartPole-v1").train_offline(10)
    trainer = Trainer("bc", dataset=logged(), config=SMALL)
    with pytest.raises(ConfigError, match="train needs an environment"):
        trainer.train(10)
    with pytest.raises(ConfigError, match="eval_interval needs an environment"):
        trainer.train_offline(10, eval_interval=5)
    with pytest.raises(ConfigError, match="gradient_steps=0 must be"):
        trainer.train_offline(0)


@pytest.mark.long
@pytest.mark.parametrize("case", ["awac", "crr"])
def test_algorithms_with_a_q_function_also_learn_from_an_environment(case: str):
    trainer = Trainer(case, env=ObservedActionReward(), config={**SETTINGS[case], "learning_starts": 40}, seed=0)
    assert trainer.train(640, progress=False)["gradient_steps"] == 601
    assert choices(trainer).tolist() == [0, 1]


@pytest.mark.long
def test_data_of_several_choices_at_once_are_learned_from():
    rng, space = np.random.default_rng(0), spaces.MultiDiscrete([2, 3])
    space.seed(0)
    columns = {
        "observations": rng.normal(size=(50, 3)), "actions": np.stack([space.sample() for _ in range(50)]),
        "rewards": rng.normal(size=50), "terminals": np.arange(50) % 10 == 9,
    }  # fmt: skip
    trainer = Trainer("iql", dataset=Dataset.from_arrays(columns, action_space=space), config=SMALL)
    trainer.train_offline(2, progress=False)
    assert space.contains(trainer.predict(np.zeros(3, np.float32)))
