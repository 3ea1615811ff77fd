"""What a loaded run continues with: its replay, its counters, and the episode that it was in."""

import errno
from contextlib import nullcontext as no_warning
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformReward

from probes import ACTION_SPACES, Diary, Wandering
from rlox import Dataset, Trainer
from rlox.core.pack import pack, unpack
from rlox.envs import streams
from rlox.errors import CheckpointError, ConfigError, DatasetError
from rlox.runs import checkpoint

COLLECTING: dict[str, Any] = {"hidden": 4, "batch_size": 8, "learning_starts": 1000, "buffer_size": 1000}
ROUNDS = {**COLLECTING, "rollout_steps": 25}
schedules = pytest.mark.parametrize("config", [COLLECTING, ROUNDS], ids=["every step", "rounds"])
LENGTH = 7


def trained(env: Diary, folder: Path, config: dict[str, Any], steps: int = 40) -> Trainer:
    trainer = Trainer("awr", env, config=config)
    trainer.train(steps, progress=False)
    trainer.save(folder)
    return trainer


def ends(trainer: Trainer) -> list[int]:
    """Return the stored steps that are truncated; the last one always is."""
    return np.flatnonzero(trainer.replay_dataset().columns["timeouts"][:]).tolist()


@schedules
def test_a_loaded_run_goes_on_in_the_episode_that_it_was_in(tmp_path: Path, config: dict[str, Any]):
    env, other = Diary(), Diary()
    trainer = trained(env, tmp_path, config)
    env.shown.clear()
    env.actions.clear()
    trainer.train(20, progress=False)
    loaded = Trainer.load(tmp_path, env=other)
    loaded.train(20, progress=False)
    # 40 steps end 5 steps into the sixth episode, which are taken again.
    assert other.seeds == env.seeds[5:]
    np.testing.assert_array_equal(other.shown[5:], env.shown)
    np.testing.assert_array_equal(other.actions[5:], env.actions)
    assert ends(loaded) == ends(trainer) == [6, 13, 20, 27, 34, 41, 48, 55, 59]
    assert loaded.episodes == trainer.episodes == 8


@schedules
def test_counters_and_the_last_episodes_come_back(tmp_path: Path, config: dict[str, Any]):
    trainer = trained(Diary(), tmp_path, config)
    loaded = Trainer.load(tmp_path, env=Diary())
    assert (loaded.env_steps, loaded.episodes, loaded.gradient_steps) == (40, 5, 0)
    assert loaded.state.key.dtype == trainer.state.key.dtype
    metrics = loaded.train(1, progress=False)
    assert (metrics["env_steps"], metrics["episodes"]) == (41, 5)
    for name in ("rollout/episode_return", "rollout/episode_length"):
        assert metrics[name] == trainer.last_metrics[name]
    assert metrics["mean_reward"] != 0
    assert loaded.train(1, progress=False)["episodes"] == 6


@schedules
@pytest.mark.parametrize("steps", [40, 42])
def test_an_episode_that_is_not_found_again_is_cut(tmp_path: Path, config: dict[str, Any], steps: int):
    env, other = Wandering(), Wandering()
    trainer = trained(env, tmp_path, config, steps)
    loaded = Trainer.load(tmp_path, env=other)
    inside = steps % LENGTH
    with pytest.warns(UserWarning, match=r"does not come back to where it was.*cut there") if inside else no_warning():
        loaded.train(10, progress=False)
    assert ends(loaded) == sorted({6, 13, 20, 27, 34, steps - 1, steps + 6, steps + 9})
    obs = loaded.replay_dataset().columns["observations"][:]
    np.testing.assert_array_equal(obs, np.stack([*env.shown, *other.shown[inside:]]))
    # The run that goes on by itself is not cut by having been saved.
    trainer.train(10, progress=False)
    assert ends(trainer) == [6, 13, 20, 27, 34, 41, 48, steps + 9]


def test_a_run_that_goes_on_elsewhere_names_where(tmp_path: Path):
    config = {"hidden": 4, "batch_size": 8, "learning_starts": 50}
    with Trainer("awr", "CartPole-v1", config=config) as trainer:
        trainer.save(tmp_path / "there")
        spec = trainer.spec
    with Trainer.from_spec(spec, env="Acrobot-v1") as trainer:
        trainer.save(tmp_path / "elsewhere")
    with Trainer.load(tmp_path / "elsewhere") as trainer:
        assert trainer.spec.env == "Acrobot-v1"
    with Trainer.load(
        tmp_path / "there", env=TransformReward(gym.make("CartPole-v1"), lambda r: 2 * float(r))
    ) as trainer:
        trainer.save(tmp_path / "wrapped")
    with Trainer.load(tmp_path / "wrapped") as trainer, pytest.raises(ConfigError, match="needs an environment"):
        trainer.train(10, progress=False)


def test_the_return_of_an_episode_that_goes_on_is_whole(tmp_path: Path):
    trainer = trained(Diary(), tmp_path, COLLECTING, 3)
    loaded = Trainer.load(tmp_path, env=Diary())
    returns = [one.train(LENGTH - 3, progress=False)["mean_reward"] for one in (trainer, loaded)]
    assert returns[0] == returns[1] != 0


def test_the_episode_after_one_that_was_cut_is_another(tmp_path: Path):
    env, other = Wandering(), Wandering()
    trained(env, tmp_path, COLLECTING)
    with pytest.warns(UserWarning, match="cut there"):
        Trainer.load(tmp_path, env=other).train(10, progress=False)
    assert other.seeds[0] == env.seeds[-1]
    assert set(other.seeds[1:]).isdisjoint(env.seeds)


@pytest.mark.long
def test_episodes_of_ready_made_vector_environments_are_cut(tmp_path: Path):
    envs = [SyncVectorEnv([Diary] * 2, autoreset_mode=AutoresetMode.SAME_STEP) for _ in range(2)]
    trainer = Trainer("awr", envs[0], config=COLLECTING)
    trainer.train(20, progress=False)
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path, env=envs[1])
    with pytest.warns(UserWarning, match=r"ready-made VectorEnv cannot be brought back.*cut there"):
        loaded.train(20, progress=False)
    # Ten steps of each before and after.
    assert ends(loaded) == [6, 9, 16, 19, 26, 29, 36, 39]


def test_only_the_episode_that_is_not_found_again_is_cut(tmp_path: Path):
    def make() -> Diary:
        made.append((Diary, Wandering)[len(made) % 2]())
        return made[-1]

    made: list[Diary] = []
    trainer = Trainer("awr", make, config={**COLLECTING, "n_envs": 2})
    trainer.train(20, progress=False)
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path, env=make)
    with pytest.warns(UserWarning, match="cut there"):
        loaded.train(20, progress=False)
    assert ends(loaded) == [6, 13, 19, 26, 29, 36, 39]


def test_an_episode_that_is_longer_than_what_is_kept_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "LONGEST", 4)
    trained(Diary(), tmp_path, COLLECTING)
    with pytest.warns(UserWarning, match="cut there"):
        Trainer.load(tmp_path, env=Diary()).train(10, progress=False)


@pytest.mark.long
def test_a_ring_that_has_come_round_continues_where_it_was(tmp_path: Path):
    env, other = Diary(), Diary()
    trained(env, tmp_path, {**COLLECTING, "buffer_size": 30}, 47)
    loaded = Trainer.load(tmp_path, env=other)
    loaded.train(5, progress=False)
    obs = loaded.replay_dataset().columns["observations"][:]
    np.testing.assert_array_equal(obs, np.stack([*env.shown, *other.shown[47 % LENGTH :]])[-30:])


def logged(n: int) -> Dataset:
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(n, 2)), "actions": rng.uniform(-2, 3, (n, 1)), "rewards": rng.normal(size=n),
        "terminals": np.arange(n) % 5 == 4, "next_observations": rng.normal(size=(n, 2)),
    }  # fmt: skip
    return Dataset.from_arrays(columns, action_space=ACTION_SPACES["continuous"])


def test_a_run_from_data_goes_on_with_data_that_do_not_show_all_of_its_actions(tmp_path: Path):
    steps: Any = {"observations": np.zeros((8, 2)), "rewards": np.ones(8), "terminals": np.arange(8) == 7}
    more, fewer = ({**steps, "actions": np.arange(8) % n} for n in (4, 3))
    Trainer("bc", dataset=more, config=COLLECTING).save(tmp_path)
    with pytest.warns(UserWarning, match="data are not those") as told:
        loaded = Trainer.load(tmp_path, dataset=fewer)
    assert len(told) == 1
    assert loaded.action_space == spaces.Discrete(4)
    loaded.train_offline(1)
    with pytest.raises(DatasetError, match=r"4 .* must come from an environment with these spaces"):
        Trainer.load(tmp_path, dataset={**steps, "actions": np.arange(8) % 5})


@pytest.mark.parametrize(("n", "buffer_size", "kept"), [(60, 20, 60), (20, 35, 35)])
def test_rounds_start_with_all_data_and_keep_as_much_or_what_the_buffer_holds(
    n: int, buffer_size: int, kept: int, tmp_path: Path
):
    data, env, other = logged(n), Diary(), Diary()
    config = {**ROUNDS, "rollout_steps": 10, "buffer_size": buffer_size}
    trainer = Trainer("awr", env, dataset=data, config=config)
    assert len(trainer.replay_dataset()) == n
    trainer.train(12, progress=False)
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path, env=other)
    loaded.train(8, progress=False)
    obs = np.concatenate([data.columns["observations"][:], env.shown, other.shown[12 % LENGTH :]])
    np.testing.assert_allclose(loaded.replay_dataset().columns["observations"][:], obs[-kept:])


@schedules
def test_an_evaluation_in_the_environment_of_the_training_cuts_the_episode(config: dict[str, Any]):
    env = Diary()
    trainer = Trainer("awr", env, config=config)
    trainer.train(30, progress=False)
    shown = [*env.shown]
    trainer.evaluate(1)
    env.forget()
    trainer.train(10, progress=False)
    obs = trainer.replay_dataset().columns["observations"][:]
    np.testing.assert_array_equal(obs, np.stack([*shown, *env.shown]))
    assert ends(trainer) == [6, 13, 20, 27, 29, 36, 39]
    assert trainer.episodes == 5


# Files.


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros((2, 3)), "b": np.zeros(1), "c": np.zeros(1)}, "holds '..c..', which this configuration has no"),
        ({"a": np.zeros((2, 3))}, "lacks '..b..'"),
        (
            {"a": np.zeros((2, 4)), "b": np.zeros(1)},
            r"'..a..' is float64\[2, 4\] in the checkpoint, but float64\[0, 3\]",
        ),
        ({"a": np.zeros((2, 3)), "b": np.zeros(2)}, "'..b..' is float64"),
        ({"a": np.zeros((2, 3)), "b": np.zeros(1, np.float32)}, "'..b..' is float32"),
    ],
)
def test_arrays_of_another_configuration_are_refused(arrays: Any, words: str):
    template = {"a": np.zeros((0, 3)), "b": np.zeros(1)}
    fitting = {"a": np.ones((2, 3)), "b": np.ones(1)}
    assert unpack(template, pack(fitting))["a"].shape == (2, 3)
    with pytest.raises(CheckpointError, match=words):
        unpack(template, pack(arrays))


def test_packed_arrays_are_copies():
    tree = {"a": np.zeros(3)}
    packed = pack(tree)
    tree["a"][:] = 1
    assert packed["['a']"].tolist() == [0, 0, 0]


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    trained(Diary(), tmp_path, COLLECTING, 5)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="written by a newer version of rlox: update rlox"):
        Trainer.load(tmp_path)


def test_a_write_that_fails_leaves_the_checkpoint_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = trained(Diary(), tmp_path, COLLECTING, 5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(arrays: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(ConfigError, match=r"cannot be written: .*Make room there"):
        trainer.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
