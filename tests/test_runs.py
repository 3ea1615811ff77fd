"""Runs: what continues where, what is recorded when, and what taking a look leaves unchanged."""

import json
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces

import rlox
from rlox import ALGORITHMS, Trainer
from rlox.core.algorithm import Algorithm, replayed_actions
from rlox.core.config import make_config
from rlox.core.losses import Metrics
from rlox.core.programs import compile_programs
from rlox.errors import ConfigError, InvalidStepError
from rlox.runs.logs import versions

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 32, "learning_starts": 100, "buffer_size": 1000}
ROUNDS: dict[str, Any] = {**SMALL, "rollout_steps": 64, "n_critic_updates": 3, "n_actor_updates": 3, "td_lambda": 0.9}


def leaves(trainer: Trainer) -> list[np.ndarray[Any, Any]]:
    state = trainer.state._replace(key=jax.random.key_data(trainer.state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def assert_same(one: Trainer, other: Trainer) -> None:
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# What continues where.


def test_a_loaded_run_continues_its_own_folder(tmp_path: Path):
    Trainer("awr", "CartPole-v1", config=SMALL, run_dir=tmp_path / "run").train(150, log_interval=50)
    trainer = Trainer.load(tmp_path / "run")
    assert trainer.run_dir == tmp_path / "run"
    trainer.train(100)
    assert [record["env_steps"] for record in records(tmp_path / "run")] == [50, 100, 150, 200, 250]
    assert Trainer.load(tmp_path / "run").env_steps == 250


def test_what_save_wrote_is_no_run_and_nothing_is_written_to_it(tmp_path: Path):
    trainer = Trainer("awr", "CartPole-v1", config=SMALL)
    trainer.train(120)
    file = trainer.save(tmp_path / "saved")
    before = file.read_bytes()
    loaded = Trainer.load(tmp_path / "saved")
    loaded.train(50)
    assert loaded.run_dir is None
    assert file.read_bytes() == before
    assert [path.name for path in (tmp_path / "saved").iterdir()] == [file.name]


def test_an_older_checkpoint_needs_a_folder_of_its_own(tmp_path: Path):
    run = tmp_path / "run"
    Trainer("awr", "CartPole-v1", config=SMALL, run_dir=run).train(120, checkpoint_interval=60)
    older = run / "checkpoint.1.safetensors"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    trainer = Trainer.load(older)
    trainer.predict(np.zeros(4, np.float32))
    with pytest.raises(ConfigError, match=r"not the run's latest checkpoint.*run_dir"):
        trainer.train(10)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    Trainer.load(older, run_dir=tmp_path / "branch").train(10)
    assert (tmp_path / "branch" / "metrics.jsonl").exists()


def test_train_without_a_number_finishes_the_budget_and_with_one_extends_it(tmp_path: Path):
    def stop(trainer: Trainer, metrics: dict[str, float]) -> bool:
        return metrics["env_steps"] < 100

    with Trainer("awr", "CartPole-v1", config=SMALL, run_dir=tmp_path / "run", callbacks=[stop]) as trainer:
        with pytest.raises(ConfigError, match="total_timesteps is not given, and there is nothing to finish"):
            trainer.train()
        trainer.train(300, log_interval=50)
    assert trainer.env_steps == 100
    loaded = Trainer.load(tmp_path / "run")
    assert loaded.train()["env_steps"] == 300
    assert loaded.train()["env_steps"] == 300
    assert loaded.train(20)["env_steps"] == 320
    assert loaded.spec.budget.total_timesteps == 320
    # The interval of the first call is remembered.
    assert [record["env_steps"] for record in records(tmp_path / "run")] == [50, 100, 150, 200, 250, 300, 320]


def test_offline_budgets_are_finished_too(tmp_path: Path):
    trainer = Trainer("bc", dataset="cartpole-random", config={"hidden": 8, "batch_size": 16})
    with pytest.raises(ConfigError, match="gradient_steps is not given"):
        trainer.train_offline()
    trainer.train_offline(30)
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path)
    assert loaded.train_offline()["gradient_steps"] == 30
    assert loaded.train_offline(5)["gradient_steps"] == 35


def test_the_settings_of_a_trainer_cannot_be_replaced():
    trainer = Trainer("awr", "CartPole-v1", config=SMALL)
    before = trainer.config
    with pytest.raises(ConfigError, match="cannot be changed"):
        trainer.config = ALGORITHMS["awr"].config()
    assert trainer.config is before


def test_an_unknown_argument_of_train_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"train has no argument 'log_intervall'\. Did you mean 'log_interval'"):
        Trainer("awr", "CartPole-v1", config=SMALL).train(10, log_intervall=5)  # pyright: ignore[reportCallIssue]


@pytest.mark.long
def test_data_in_rounds_come_back_whatever_their_number(tmp_path: Path):
    config = {"hidden": 8, "n_critic_updates": 2, "n_actor_updates": 2, "batch_size": 16, "buffer_size": 6000}
    trainer = Trainer("awr", "CartPole-v1", dataset="cartpole-medium", preset="tuned", config=config)
    trainer.train_offline(2)
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path)
    assert_same(trainer, loaded)
    assert len(loaded.replay_dataset()) == len(trainer.replay_dataset())
    loaded.train(1024 + 16)


# What is recorded when.


def test_an_evaluation_is_recorded_once():
    seen: list[dict[str, float]] = []
    trainer = Trainer("awr", "CartPole-v1", config=SMALL, logger=lambda metrics: seen.append(dict(metrics)))
    metrics = trainer.train(300, log_interval=50, eval_interval=150, n_eval_episodes=2)
    assert [record["env_steps"] for record in seen] == [50, 100, 150, 200, 250, 300]
    assert [record["env_steps"] for record in seen if "eval/mean_reward" in record] == [150, 300]
    assert metrics["eval/mean_reward"] == seen[-1]["eval/mean_reward"]
    assert metrics["eval/n_episodes"] == 2


def test_offline_curves_are_over_gradient_steps(tmp_path: Path):
    from tensorboard_events import scalars

    trainer = Trainer("bc", dataset="cartpole-random", config={"hidden": 8, "batch_size": 16}, run_dir=tmp_path / "run")
    trainer.train_offline(60, log_interval=20)
    assert [step for step, _ in scalars(tmp_path / "run" / "offline")["actor/loss"]] == [20, 40, 60]


@pytest.mark.parametrize("answer", [0, None, True, [], np.float64(0)])
def test_only_false_ends_training(answer: Any):
    trainer = Trainer("awr", "CartPole-v1", config=SMALL, callbacks=lambda *_: answer)
    assert trainer.train(90, log_interval=30)["env_steps"] == 90


def test_one_callback_need_not_be_in_a_list():
    seen: list[int] = []
    trainer = Trainer("awr", "CartPole-v1", config=SMALL, callbacks=lambda t, _: seen.append(t.env_steps))
    trainer.train(60, log_interval=30)
    assert seen == [30, 60]


def test_the_share_of_clipped_weights_is_that_of_weights_that_are_clipped():
    awac, advantage = ALGORITHMS["awac"], jax.numpy.array([0.0, 5.0])
    _, softmax = awac.weight(make_config(awac.config, "awac", {}), advantage)
    assert "weight/clipped_fraction" not in softmax
    config = make_config(awac.config, "awac", {"weights": "exp", "max_advantage": 2.0})
    clipped: Metrics = awac.weight(config, advantage)[1]
    assert clipped["weight/clipped_fraction"].tolist() == [False, True]


# What taking a look leaves unchanged.


@pytest.mark.long
@pytest.mark.parametrize("config", [SMALL, {**ROUNDS, "normalize_obs": True}], ids=["every step", "rounds"])
def test_checkpoints_and_snapshots_change_no_number(tmp_path: Path, config: dict[str, Any]):
    plain, saving = (Trainer("awr", "Pendulum-v1", config=config, run_dir=tmp_path / name) for name in ("a", "b"))
    plain.train(300)
    saving.train(300, checkpoint_interval=37)
    assert_same(plain, saving)
    for name in ("observations", "rewards", "timeouts"):
        one, other = (trainer.replay_dataset().columns[name][:] for trainer in (plain, saving))
        np.testing.assert_array_equal(one, other)


def test_evaluating_without_an_environment_leaves_the_replay_as_it_is(tmp_path: Path):
    trainer = Trainer("awr", gym.make("CartPole-v1"), config=SMALL)
    trainer.train(55)
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path)
    before = loaded.replay_dataset().columns["timeouts"][:]
    with pytest.raises(ConfigError, match="evaluate needs an environment"):
        loaded.evaluate(1)
    np.testing.assert_array_equal(loaded.replay_dataset().columns["timeouts"][:], before)


def test_the_steps_of_an_unfinished_round_are_in_the_replay_s_data(tmp_path: Path):
    trainer = Trainer("awr", "CartPole-v1", config=ROUNDS)
    trainer.train(10)
    assert len(trainer.replay_dataset()) == 10
    trainer.train(90)
    assert len(trainer.replay_dataset()) == 100
    trainer.save(tmp_path)
    assert len(Trainer.load(tmp_path).replay_dataset()) == 100


# How the first steps are taken.


@pytest.mark.long
def test_an_untrained_policy_with_data_at_hand_begins_with_random_actions():
    def first_actions(offline: bool) -> set[float]:
        trainer = Trainer("awac", "Pendulum-v1", dataset="pendulum-random", config={**SMALL, "learning_starts": 40})
        if offline:
            trainer.train_offline(1)
        trainer.train(30)
        return set(np.abs(trainer.replay_dataset().columns["actions"][:]).ravel().tolist())

    # A policy at its start has a wide Gaussian, which is clipped at the bounds again and again.
    assert 2.0 not in first_actions(offline=False)
    assert 2.0 in first_actions(offline=True)


def test_the_normaliser_is_frozen_by_environment_steps_whatever_was_logged_before():
    config = {**SMALL, "normalize_obs": True, "normalize_obs_until": 50}
    trainer = Trainer("iql", "Pendulum-v1", dataset="pendulum-random", config=config)
    fitted = float(trainer.state.normalizer.count)  # pyright: ignore[reportOptionalMemberAccess]
    trainer.train(30)
    assert float(trainer.state.normalizer.count) == fitted + 30  # pyright: ignore[reportOptionalMemberAccess]
    trainer.train(60)
    assert float(trainer.state.normalizer.count) == fitted + 50  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.long
@pytest.mark.parametrize("config", [{"updates_per_step": 3}, {"n_envs": 2}, {"n_critic_updates": 3}], ids=str)
def test_no_two_draws_share_a_random_key(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    keys: list[tuple[int, ...]] = []

    def note(key: Any) -> None:
        keys.append(tuple(np.asarray(key).tolist()))

    def value_target(config: Any, networks: Any, batch: Any, key: Any) -> Any:
        jax.debug.callback(note, jax.random.key_data(key))
        return batch.reward

    def advantage(config: Any, networks: Any, batch: Any, target: Any, key: Any, where: Any = None) -> Any:
        jax.debug.callback(note, jax.random.key_data(key))
        return target

    def actor_target(algorithm: Any, *given: Any) -> Any:
        jax.debug.callback(note, jax.random.key_data(given[4]))
        return replayed_actions(algorithm, *given)

    awr = ALGORITHMS["awr"]
    noting = Algorithm(
        config=awr.config,
        critic=awr.critic,
        critic_loss=awr.critic_loss,
        weight=awr.weight,
        value_target=value_target,
        advantage=advantage,
        actor_target=actor_target,
    )
    monkeypatch.setitem(ALGORITHMS, "noting", noting)
    Trainer("noting", "CartPole-v1", config={**SMALL, **config}).train(104)
    jax.effects_barrier()
    assert len(keys) >= 10
    assert len(set(keys)) == len(keys)


# Environments.


class Bytes(gym.Env[Any, Any]):
    """Pays 1 for telling a bright picture from a dark one; the two differ by 40 of 255."""

    action_space = spaces.Discrete(2)

    def __init__(self, dtype: Any = np.uint8):
        self.observation_space = spaces.Box(0, 255, (12,), np.uint8)
        self.dtype = dtype

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.bright = int(self.np_random.integers(2))
        return self._picture(), {}

    def _picture(self) -> Any:
        return (100 + 40 * self.bright + self.np_random.integers(-5, 5, 12)).astype(self.dtype)

    def step(self, action: Any) -> Any:
        reward = float(action == self.bright)
        self.bright = int(self.np_random.integers(2))
        return self._picture(), reward, True, False, {}


@pytest.mark.long
def test_bytes_are_learned_from_as_numbers_from_0_to_1():
    trainer = Trainer("awr", Bytes, config={**SMALL, "learning_rate": 3e-3, "beta": 0.3, "gamma": 0.0}, seed=0)
    trainer.train(1500)
    assert trainer.evaluate(100)["mean_reward"] > 0.95
    stored = trainer.replay_dataset().columns["observations"]
    assert stored.dtype == np.uint8
    assert 90 < stored[:].min() < 110


def test_floats_in_a_space_of_bytes_are_warned_of_once():
    with pytest.warns(UserWarning, match="array of floats, but the space") as found:
        Trainer("awr", lambda: Bytes(np.float32), config=SMALL).train(5)
    assert len(found) == 1


def test_a_step_of_four_values_is_told_what_gymnasium_returns():
    class Old(Bytes):
        def step(self, action: Any) -> Any:
            return self._picture(), 0.0, True, {}

    with pytest.raises(InvalidStepError, match=r"returned 4 values.*obs, reward, terminated, truncated and info"):
        Trainer("awr", Old, config=SMALL).train(5)


class Closing(Bytes):
    open: ClassVar[list[object]] = []

    def __init__(self) -> None:
        super().__init__()
        self.open.append(self)

    def close(self) -> None:
        self.open.remove(self)


def test_environments_that_the_trainer_made_are_closed():
    Closing.open.clear()
    with Trainer("awr", Closing, config={**SMALL, "n_envs": 2}) as trainer:
        trainer.train(10)
        trainer.evaluate(1)
        trainer.record(5)
        # Two to train in and one to evaluate in, which is kept; the one of the recording is closed.
        assert len(Closing.open) == 3
    assert Closing.open == []


def test_an_environment_of_the_caller_s_stays_open():
    Closing.open.clear()
    env = Closing()
    with Trainer("awr", env, config=SMALL) as trainer:
        trainer.train(10)
        trainer.evaluate(1)
    assert Closing.open == [env]


def test_compiled_programs_are_kept_in_bounds():
    assert compile_programs.cache_info().maxsize is not None


def test_metrics_of_weights_are_averages_of_per_sample_ones():
    config = make_config(ALGORITHMS["awr"].config, "awr", {"max_advantage": 2.0})
    weight, metrics = ALGORITHMS["awr"].weight(config, jax.numpy.array([0.0, 5.0]))
    assert isinstance(metrics, dict)
    found: Metrics = metrics
    np.testing.assert_allclose(weight, [1.0, 2.0])
    assert found["weight/clipped_fraction"].tolist() == [False, True]


def test_a_source_folder_that_is_not_installed_names_its_version(monkeypatch: pytest.MonkeyPatch):
    found = Distribution.from_name

    def installed(name: str) -> Distribution:
        if name == "rlox":
            raise PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(Distribution, "from_name", installed)
    assert versions()["rlox"] == rlox.__version__
