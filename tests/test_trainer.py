"""The Trainer: continuing, seeds, spaces, sharing an environment, errors, files."""

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from rlox import Trainer
from rlox.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    InvalidStepError,
    RloxError,
    RunExistsError,
    SpaceError,
)
from rlox.runs.history import read_run

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 32, "learning_starts": 100, "buffer_size": 1000}


class Spaces(gym.Env[Any, Any]):
    """Random observations of any space, episodes of ten steps, reward 1."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observation_space.sample(), 1.0, False, self.t == 10, {}


def leaves(trainer: Trainer) -> list[np.ndarray[Any, Any]]:
    raw = trainer.state._replace(key=jax.random.key_data(trainer.state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(raw)]


def same(a: Trainer, b: Trainer) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if "second" not in k}


def test_one_seed_covers_everything_and_another_differs():
    runs = [Trainer("awr", "CartPole-v1", seed=seed, config=SMALL) for seed in (3, 3, 4)]
    metrics = [without_clock(run.train(400)) for run in runs]
    assert same(runs[0], runs[1])
    assert metrics[0] == metrics[1]
    assert not same(runs[0], runs[2])
    assert runs[0].evaluate(3) == runs[1].evaluate(3)


def test_a_second_train_goes_on_where_the_first_ended():
    whole, parts = (Trainer("awr", "CartPole-v1", seed=3, config=SMALL) for _ in range(2))
    whole.train(400)
    parts.train(150)
    metrics = parts.train(250)
    assert metrics["env_steps"] == 400
    assert metrics["gradient_steps"] == 301
    assert same(whole, parts)


def test_random_steps_end_before_learning_starts_and_one_update_follows_each_later_step():
    trainer = Trainer("awr", "CartPole-v1", config=SMALL)
    trainer.train(99)
    assert trainer.gradient_steps == 0
    trainer.train(1)
    assert trainer.gradient_steps == 1
    trainer.train(10)
    assert trainer.gradient_steps == 11


@pytest.mark.long
def test_updates_per_step_and_several_environments_multiply():
    trainer = Trainer("awr", "CartPole-v1", config={**SMALL, "updates_per_step": 2, "n_envs": 3})
    trainer.train(102)
    assert trainer.env_steps == 102
    assert trainer.gradient_steps == 6


def test_metrics_are_plain_floats_under_their_documented_names():
    metrics = Trainer("awr", "CartPole-v1", config=SMALL).train(400, eval_interval=200, n_eval_episodes=2)
    assert all(type(value) in (float, int) for value in metrics.values())
    assert {
        "mean_reward", "episodes", "env_steps", "gradient_steps", "seconds", "env_steps_per_second", "actor/loss",
        "critic/loss", "critic/explained_variance", "advantage/mean", "advantage/std", "weight/mean", "weight/max",
        "weight/clipped_fraction", "weight/effective_sample_size", "policy/entropy", "rollout/episode_return",
        "rollout/episode_length", "eval/mean_reward", "time/env_steps_per_second",
        "time/gradient_steps_per_second", "time/seconds",
    } <= metrics.keys()  # fmt: skip
    assert 8 < metrics["mean_reward"] < 500


def test_mean_reward_is_nan_where_no_episode_ended():
    assert math.isnan(Trainer("awr", "Pendulum-v1", config=SMALL).train(50)["mean_reward"])


def test_mean_reward_is_over_the_last_hundred_episodes():
    class Counting(Spaces):
        episode = 0

        def reset(self, **kwargs: Any):
            self.episode += 1
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            obs, _, terminated, truncated, info = super().step(action)
            return obs, float(self.episode) / 10, terminated, truncated, info

    env = Counting(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    metrics = Trainer("awr", env, config={**SMALL, "learning_starts": 2000}).train(1500)
    assert metrics["episodes"] == 150
    assert metrics["mean_reward"] == pytest.approx(np.mean(range(51, 151)))


def test_callbacks_and_logger_fire_once_an_interval_and_can_stop():
    seen: list[int] = []
    logged: list[float] = []

    def stop(trainer: Trainer, metrics: dict[str, float]) -> bool:
        seen.append(trainer.env_steps)
        return metrics["env_steps"] < 300

    trainer = Trainer(
        "awr", "CartPole-v1", config=SMALL, callbacks=[stop], logger=lambda m: logged.append(m["env_steps"])
    )
    trainer.train(1000, log_interval=100)
    assert seen == logged == [100, 200, 300]
    assert trainer.env_steps == 300


# Most are of six numbers, so that they share programs; so do the first and others of the actions.
OBSERVATIONS = [
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(0, 255, (4, 4, 1), np.uint8),
    spaces.Discrete(6, start=-1),
    spaces.MultiDiscrete([4, 2]),
    spaces.MultiBinary(3),
    spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(3)}),
    spaces.Tuple([spaces.Discrete(5), spaces.Box(-1, 1, ())]),
]
ACTIONS = [
    spaces.Discrete(2, start=5),
    spaces.Box(np.array([-2.0, 0.0, -1.0, 1.0], np.float32), np.array([3.0, 0.5, 1.0, 4.0], np.float32)),
    spaces.Box(-1, 1, (2, 2), np.float64),
    spaces.MultiDiscrete([2, 4]),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("observation_space", OBSERVATIONS, ids=str)
def test_every_observation_space_trains_predicts_and_comes_back(observation_space: Any, tmp_path: Path):
    check_spaces(observation_space, spaces.Discrete(2), tmp_path)


@pytest.mark.parametrize("action_space", ACTIONS, ids=str)
def test_every_action_space_trains_predicts_and_comes_back(action_space: Any, tmp_path: Path):
    check_spaces(spaces.Box(-1, 1, (6,)), action_space, tmp_path)


def check_spaces(observation_space: Any, action_space: Any, folder: Path) -> None:
    env = Spaces(observation_space, action_space)
    trainer = Trainer("awr", env, config={**SMALL, "learning_starts": 40})
    trainer.train(80)
    assert trainer.evaluate(2)["mean_length"] == 10
    obs = observation_space.sample()
    action = trainer.predict(obs)
    assert action_space.contains(action)
    assert action_space.contains(trainer.predict(obs, deterministic=False))
    trainer.save(folder)
    loaded = Trainer.load(folder)
    assert np.array_equal(loaded.predict(obs), action)
    assert loaded.observation_space == observation_space
    assert loaded.action_space == action_space


def test_predict_takes_one_observation_or_a_batch():
    trainer = Trainer("awr", "Pendulum-v1", config=SMALL)
    batch = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    actions = trainer.predict(batch)
    assert actions.shape == (5, 1)
    assert trainer.predict(batch[0]).shape == (1,)
    np.testing.assert_allclose(trainer.predict(batch[0]), actions[0], rtol=1e-5)
    samples = [trainer.predict(batch[0], deterministic=False).item() for _ in range(20)]
    assert len(set(samples)) > 10
    assert all(-2 <= sample <= 2 for sample in samples)


def test_predict_refuses_another_shape_and_nan():
    trainer = Trainer("awr", "CartPole-v1", config=SMALL)
    with pytest.raises(InvalidStepError, match=r"shape \(3,\), but the space says \(4,\)"):
        trainer.predict(np.zeros(3, np.float32))
    with pytest.raises(InvalidStepError, match=r"observation\[1\] is nan"):
        trainer.predict(np.array([0, np.nan, 0, 0], np.float32))


def test_evaluation_on_a_shared_environment_ends_the_training_episode():
    trainer = Trainer("awr", Spaces(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)), config=SMALL)
    trainer.train(204)
    trainer.evaluate(1)
    assert trainer.episodes == 20
    trainer.train(10)
    assert trainer.episodes == 21
    stored = trainer.replay_dataset()
    assert np.flatnonzero(stored.columns["timeouts"][:])[-3:].tolist() == [199, 203, 213]
    assert not stored.columns["terminals"][:].any()


def test_evaluations_can_be_turned_off_again():
    trainer = Trainer("awr", "CartPole-v1", config={"hidden": 4, "learning_starts": 8, "batch_size": 8})
    trainer.train(20, eval_interval=10, n_eval_episodes=1, progress=False)
    trainer.train(20, progress=False)
    assert trainer.spec.budget.eval_interval == 10
    trainer.train(20, eval_interval=None, progress=False)
    assert trainer.spec.budget.eval_interval is None


def test_evaluation_on_an_environment_of_its_own_leaves_training_alone():
    watched, alone = (Trainer("awr", "CartPole-v1", seed=5, config=SMALL) for _ in range(2))
    watched.train(200)
    watched.evaluate(2)
    watched.train(100)
    alone.train(300)
    assert same(watched, alone)


@pytest.mark.parametrize("make", [lambda: gym.make("CartPole-v1"), lambda: gym.make_vec("CartPole-v1", num_envs=3)])
def test_ready_made_environments_and_callables_train(make: Any):
    for env in (make, make()):
        trainer = Trainer("awr", env, config=SMALL)
        assert trainer.train(300)["env_steps"] >= 300
        assert trainer.evaluate(4)["n_episodes"] == 4


def test_save_and_load_give_the_same_training_back(tmp_path: Path):
    trainer = Trainer("awr", "CartPole-v1", seed=3, config={**SMALL, "tau": 0.5, "buffer_size": 150})
    trainer.train(300)
    trainer.save(tmp_path / "run")
    loaded = Trainer.from_checkpoint(tmp_path / "run")
    assert same(trainer, loaded)
    assert loaded.config == trainer.config
    assert loaded.env_steps == 300
    assert loaded.evaluate(3) == trainer.evaluate(3)
    stored, again = (t.replay_dataset() for t in (trainer, loaded))
    assert len(stored) == 150
    for name, column in stored.columns.items():
        np.testing.assert_array_equal(column[:], again.columns[name][:])
    loaded.train(1)
    assert loaded.gradient_steps == trainer.gradient_steps + 1


def test_loading_twice_goes_on_the_same_way(tmp_path: Path):
    trainer = Trainer("awr", "CartPole-v1", config=SMALL)
    trainer.train(200)
    trainer.save(tmp_path)
    first, second = Trainer.load(tmp_path), Trainer.load(tmp_path)
    first.train(100)
    second.train(100)
    assert same(first, second)


def test_a_run_folder_is_continued_by_its_own_load(tmp_path: Path):
    with Trainer("awr", "CartPole-v1", config=SMALL, run_dir=tmp_path / "run") as trainer:
        trainer.train(200, log_interval=100)
    Trainer.load(tmp_path / "run", run_dir=tmp_path / "run").train(200, log_interval=100)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["env_steps"] for line in lines] == [100, 200, 300, 400]
    assert Trainer.load(tmp_path / "run").env_steps == 400


def test_nothing_is_written_without_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Trainer("awr", "CartPole-v1", config=SMALL).train(200)
    assert not list(tmp_path.iterdir())


def test_missing_torn_and_foreign_checkpoints_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere"):
        Trainer.load(tmp_path / "nowhere")
    trainer = Trainer("awr", "CartPole-v1", config=SMALL)
    file = trainer.save(tmp_path / "run")
    whole = file.read_bytes()
    for torn in (whole[: len(whole) // 2], whole[:20], b"", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        file.write_bytes(torn)
        with pytest.raises(CheckpointError, match=r"cannot be read|damaged"):
            Trainer.load(tmp_path / "run")
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match="made for the space"):
        Trainer.load(tmp_path / "run", env="Acrobot-v1")


def test_a_torn_checkpoint_gives_way_to_the_one_before_it(tmp_path: Path):
    trainer = Trainer("awr", "CartPole-v1", config=SMALL)
    trainer.train(120)
    trainer.save(tmp_path)
    trainer.train(30)
    file = trainer.save(tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"torn.*The one before it"):
        assert Trainer.load(tmp_path).env_steps == 120


def test_a_trainer_without_an_environment_predicts_and_says_what_is_missing(tmp_path: Path):
    env = Spaces(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    Trainer("awr", env, config=SMALL).save(tmp_path)
    loaded = Trainer.load(tmp_path)
    assert loaded.predict(np.zeros(2, np.float32)) in (0, 1)
    with pytest.raises(ConfigError, match="train needs an environment: pass env="):
        loaded.train(10)
    assert Trainer.load(tmp_path, env=env).train(10)["env_steps"] == 10


class Breaking(Spaces):
    """Fails in its own way at step 150."""

    def __init__(self, fault: Any):
        super().__init__(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
        self.fault, self.steps = fault, 0

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        self.steps += 1
        return self.fault(obs, reward) + tuple(rest) if self.steps == 150 else (obs, reward, *rest)


def test_an_environment_that_raises_leaves_its_training_saved(tmp_path: Path):
    def fault(obs: Any, reward: Any):
        raise RuntimeError("the motor is hot")

    trainer = Trainer("awr", Breaking(fault), config=SMALL, run_dir=tmp_path / "run")
    with pytest.raises(RuntimeError, match="the motor is hot"):
        trainer.train(1000)
    assert Trainer.load(tmp_path / "run").env_steps == 149


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda obs, reward: (np.array([0, np.nan], np.float32), reward), r"Step 150 .*observation\[1\] is nan"),
        (lambda obs, reward: (np.array([np.inf, 0], np.float32), reward), r"Step 150 .*observation\[0\] is inf"),
        (lambda obs, reward: (np.zeros(3, np.float32), reward), r"Step 150 .*shape \(3,\).*\(2,\)"),
        (lambda obs, reward: (obs, float("nan")), r"Step 150 .*reward nan"),
    ],
)
def test_an_environment_that_returns_nonsense_is_named_with_its_step(fault: Any, words: str):
    with pytest.raises(InvalidStepError, match=words):
        Trainer("awr", Breaking(fault), config=SMALL).train(1000)


def test_divergence_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path):
    class Growing(Spaces):
        scale = 1.0

        def step(self, action: Any) -> Any:
            obs, _, *rest = super().step(action)
            self.scale = min(self.scale * 1.25, 3e38)
            return obs, self.scale, *rest

    env = Growing(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    trainer = Trainer("awr", env, config=SMALL, run_dir=tmp_path / "run")
    words = r"(a loss|(loss|parameter|moment) \S+) is not finite from gradient step \d+ .*env step \d+\)\. Lower.*last"
    with pytest.raises(DivergedError, match=words):
        trainer.train(2000, log_interval=20, checkpoint_interval=20)
    assert all(np.isfinite(leaf).all() for leaf in leaves(Trainer.load(tmp_path / "run")))


@pytest.mark.parametrize("eval_interval", [None, 30])
def test_divergence_is_not_taken_for_a_fault_of_the_environment(eval_interval: int | None, tmp_path: Path):
    config = {"hidden": 8, "batch_size": 16, "learning_starts": 16, "learning_rate": 1e30, "buffer_size": 1000}
    trainer = Trainer("iql", "Pendulum-v1", config=config, run_dir=tmp_path / "run")
    with pytest.raises(DivergedError, match="Training diverged"):
        trainer.train(1000, eval_interval=eval_interval)
    assert read_run(tmp_path / "run").records[-1]["actor/loss"] is None, "its report says so"


def test_a_moment_that_has_overflowed_is_divergence():
    trainer = Trainer("marwil", dataset="cartpole-random", config={"hidden": 4})
    learner: Any = trainer._learner
    train = learner.state.train
    moments = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf) if x.dtype == jnp.float32 else x, train.actor_opt)
    learner.state = learner.state._replace(train=train._replace(actor_opt=moments))
    with pytest.raises(DivergedError, match=r"moment \S+ is not finite .* set max_grad_norm=1\.0"):
        learner.check_finite()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"algorithm": "awx"}, ConfigError, "Did you mean 'awr'"),
        ({"env": "CartPol-v1"}, ConfigError, "Did you mean: `CartPole`"),
        ({"env": None}, ConfigError, "pass env="),
        ({"env": 3}, ConfigError, "must be an id"),
        ({"seed": -1}, ConfigError, "seed=-1"),
        ({"seed": 1.5}, ConfigError, "seed=1.5"),
        ({"config": {"bata": 1}}, ConfigError, "'bata' is not a setting of awr. Did you mean 'beta'?"),
        ({"config": {"seed": 1}}, ConfigError, "pass it to Trainer itself"),
        ({"config": 3}, ConfigError, "config is a int"),
        ({"env": Spaces(spaces.Box(-1, 1, (2,)), spaces.Text(4))}, SpaceError, "Text"),
        ({"env": Spaces(spaces.Box(-1, 1, (2,)), spaces.Box(-np.inf, 1, (1,)))}, SpaceError, "no finite bounds"),
        ({"env": Spaces(spaces.Graph(spaces.Box(-1, 1, (2,)), None), spaces.Discrete(2))}, SpaceError, "Graph"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], error: type[RloxError], words: str):
    with pytest.raises(error) as caught:
        Trainer(**{"algorithm": "awr", "env": "CartPole-v1", **arguments})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_names_are_taken_in_any_case():
    assert Trainer("AWR", "CartPole-v1", config=SMALL).spec.algorithm == "awr"


def test_an_existing_run_folder_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunExistsError, match="already holds"):
        Trainer("awr", "CartPole-v1", run_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_speed_is_of_this_training_alone():
    records: list[dict[str, float]] = []
    trainer = Trainer("awr", "CartPole-v1", config=SMALL, callbacks=[lambda _, record: records.append(record)])
    earlier = trainer.train(90, progress=False)["time/seconds"]
    found = trainer.train(9, progress=False)
    assert found["env_steps_per_second"] * found["seconds"] == pytest.approx(9)
    seconds = records[-1]["time/seconds"] - earlier
    assert records[-1]["time/env_steps_per_second"] * seconds == pytest.approx(9, rel=1e-3)
    assert found["time/seconds"] == pytest.approx(earlier + found["seconds"], abs=1e-3)


def test_seeds_that_no_file_holds_are_refused_before_anything_begins():
    with pytest.raises(ConfigError, match="is too large: it must be below 2"):
        Trainer("awr", "CartPole-v1", seed=10**20)
    trainer = Trainer("awr", "CartPole-v1", config=SMALL, seed=2**63 - 1)
    assert trainer.evaluate(1, seed=2**63 - 1)["n_episodes"] == 1
    for call in (trainer.evaluate, trainer.record):
        with pytest.raises(ConfigError, match="is too large"):
            call(1, seed=10**20)


class Far(gym.Env[Any, Any]):
    """Shows a number around a million."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.array([1e6], np.float32), {}

    def step(self, action: Any) -> Any:
        return np.array([-1e6], np.float32), 1.0, False, bool(self.np_random.random() < 0.2), {}


def test_observations_that_are_far_too_large_are_warned_of_unless_they_are_whitened(tmp_path: Path):
    with pytest.warns(UserWarning, match=r"up to 1e\+06 are too large.*normalize_obs=True"):
        Trainer("awr", Far, config=SMALL).train(5, progress=False)
    trainer = Trainer("awr", Far, config=SMALL | {"normalize_obs": True})
    trainer.train(30, progress=False)
    data = trainer.replay_dataset()
    with pytest.warns(UserWarning, match="too large"):
        Trainer("bc", dataset=data, config=SMALL)


def test_numbers_of_numpy_are_budgets_that_are_saved(tmp_path: Path):
    how: Any = {"log_interval": np.int64(30), "n_eval_episodes": np.int64(2), "checkpoint_minutes": np.float32(5)}
    with Trainer("awr", "CartPole-v1", config=SMALL, run_dir=tmp_path / "run") as trainer:
        trainer.train(np.int64(60), progress=False, **how)  # pyright: ignore[reportArgumentType]
        trainer.save(tmp_path / "copy")
    assert Trainer.load(tmp_path / "copy").spec.budget == trainer.spec.budget
