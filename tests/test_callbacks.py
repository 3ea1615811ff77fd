"""Callbacks, each in a real training."""

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec

from rlox import Policy, Trainer, callbacks
from rlox.callbacks import KeepBest, RecordVideo, StopAtReward
from rlox.errors import ConfigError
from rlox.runs import checkpoint
from rlox.runs.checkpoint import header

TINY: dict[str, Any] = {"hidden": 8, "batch_size": 16, "learning_starts": 20, "buffer_size": 200}
EVALUATED: dict[str, Any] = {"log_interval": 20, "eval_interval": 40, "n_eval_episodes": 1}


def new(**options: Any) -> Trainer:
    return Trainer("awr", "CartPole-v1", config=TINY, **options)


class Scripted:
    """Sets a metric of the records to come, before the callbacks after it see them."""

    def __init__(self, name: str, values: dict[int, float]):
        self._name, self._values = name, values

    def __call__(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if trainer.env_steps in self._values:
            metrics[self._name] = self._values[trainer.env_steps]


def test_they_are_part_of_the_package():
    import rlox

    assert rlox.callbacks is callbacks
    assert "callbacks" in dir(rlox)


# StopAtReward.


@pytest.mark.long
def test_training_ends_at_the_evaluation_that_reaches_the_reward(capsys: pytest.CaptureFixture[str]):
    with new(callbacks=StopAtReward(5)) as trainer:  # An episode of CartPole has at least eight steps.
        metrics = trainer.train(200, **EVALUATED)
    assert trainer.env_steps == 40
    reached = metrics["eval/mean_reward"]
    assert capsys.readouterr().err == f"Stopped at step 40: eval/mean_reward is {reached:.4g}.\n"


def test_training_goes_on_below_the_reward_and_stops_at_equality(capsys: pytest.CaptureFixture[str]):
    script = Scripted("rollout/episode_return", {20: 9.99, 40: math.nan, 60: 10.0, 80: 30.0})
    with new(callbacks=[script, StopAtReward(10.0, metric="rollout/episode_return")]) as trainer:
        trainer.train(100, log_interval=20)
    assert trainer.env_steps == 60
    assert "Stopped at step 60" in capsys.readouterr().err


def test_offline_it_says_the_gradient_step(capsys: pytest.CaptureFixture[str]):
    with new(dataset="cartpole-random", callbacks=StopAtReward(5)) as trainer:
        trainer.train_offline(100, **EVALUATED)
    assert trainer.gradient_steps == 40
    assert "Stopped at gradient step 40:" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [False, np.False_])
def test_false_ends_training(answer: Any):
    with new(callbacks=lambda trainer, metrics: answer) as trainer:
        trainer.train(100, log_interval=20)
    assert trainer.env_steps == 20


# KeepBest.


def test_the_best_policy_is_kept_and_a_later_worse_one_is_not(tmp_path: Path):
    path = tmp_path / "best.safetensors"
    seen: dict[int, Any] = {}

    def note(trainer: Trainer, metrics: dict[str, float]) -> None:
        seen[trainer.env_steps] = trainer.policy.log_prob([[0.0, 0.1, 0.0, 0.1]], [1])[0], path.exists()

    script = Scripted("eval/mean_reward", {40: 3.0, 60: 7.0, 80: 7.0, 100: 5.0})
    with new(callbacks=[script, note, KeepBest(path)]) as trainer, pytest.warns(UserWarning, match="never comes"):
        trainer.train(100, log_interval=20)
    assert [there for _, there in seen.values()] == [False, False, True, True, True]
    kept = Policy.load(path).log_prob([[0.0, 0.1, 0.0, 0.1]], [1])[0]
    assert kept == seen[60][0]
    assert kept not in (seen[40][0], seen[80][0])
    assert header(path)["about"] == {"metric": "eval/mean_reward", "value": 7.0, "env_steps": 60}


def test_real_evaluations_are_kept(tmp_path: Path):
    path = tmp_path / "best.safetensors"
    found: list[float] = []
    note: Any = lambda _, metrics: found.append(metrics.get("eval/mean_reward", -1.0))  # noqa: E731
    with new(callbacks=[KeepBest(path), note]) as trainer:
        trainer.train(160, **EVALUATED)
    assert header(path)["about"]["value"] == max(found)


def test_a_run_that_continues_does_not_replace_a_better_policy(tmp_path: Path):
    path, how = tmp_path / "best.safetensors", {"metric": "rollout/episode_return"}
    script = Scripted("rollout/episode_return", {20: 50.0, 40: 40.0, 60: 49.0, 80: 51.0})
    with new(callbacks=[script, KeepBest(path, **how)], run_dir=tmp_path / "run") as trainer:
        trainer.train(40, log_interval=20)
    before = path.read_bytes()
    with Trainer.load(tmp_path / "run", callbacks=[script, KeepBest(path, **how)]) as loaded:
        loaded.train(20)
        assert path.read_bytes() == before
        loaded.train(20)
    assert header(path)["about"]["value"] == 51.0


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_with_the_file(tmp_path: Path):
    path, how = tmp_path / "best.safetensors", {"metric": "rollout/episode_return"}
    script = Scripted("rollout/episode_return", {20: 50.0, 40: 40.0})
    with new(callbacks=[script, KeepBest(path, **how)], run_dir=tmp_path / "run") as trainer:
        trainer.train(40, log_interval=20)
    first = tmp_path / "run" / checkpoint.NAME
    shutil.copy(tmp_path / "run" / checkpoint.OLDER[0], first)
    before = path.read_bytes()
    with Trainer.load(tmp_path / "run", callbacks=[script, KeepBest(path, **how)]) as loaded:
        assert loaded.env_steps == 0
        loaded.train()
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_not_replaced(tmp_path: Path):
    path = tmp_path / "best.safetensors"
    new().policy.save(path)
    before = path.read_bytes()
    keep: Any = {"callbacks": KeepBest(path, metric="rollout/episode_return"), "run_dir": tmp_path / "run"}
    with new(**keep) as trainer:
        with pytest.raises(ConfigError, match="is there already, and this run is new"):
            trainer.train(20)
        assert trainer.env_steps == 0
    with new() as trainer:
        trainer.train(20)
        trainer.callbacks = (KeepBest(path, metric="rollout/episode_return"),)
        with pytest.raises(ConfigError, match="was not written by KeepBest with 'rollout/episode_return'"):
            trainer.train(20)
    assert path.read_bytes() == before


def test_what_cannot_be_kept_is_said_and_kept_later(tmp_path: Path):
    folder = tmp_path / "there"
    folder.mkdir()
    path = folder / "best.safetensors"

    def move(trainer: Trainer, metrics: dict[str, float]) -> None:
        folder.rename(tmp_path / "away")

    script = Scripted("rollout/episode_return", {20: 50.0, 40: 50.0})
    keep = KeepBest(path, metric="rollout/episode_return")
    with new(callbacks=[script, move, keep]) as trainer:
        with pytest.warns(UserWarning, match=r"KeepBest: .*cannot be written.* Training goes on\."):
            trainer.train(20)
        with pytest.raises(ConfigError, match="there is no folder"):
            trainer.train(20)
        (tmp_path / "away").rename(folder)
        trainer.callbacks = (script, keep)
        trainer.train(20)
    assert header(path)["about"]["env_steps"] == 40


# RecordVideo.


def look_at(video: Path) -> tuple[int, float]:
    """Return the number of frames and the standard deviation of their pixels, read by a process without JAX."""
    code = "import sys, imageio.v3 as iio; frames = iio.imread(sys.argv[1]); print(len(frames), frames.std())"
    n_frames, contrast = subprocess.check_output([sys.executable, "-c", code, str(video)], text=True).split()
    return int(n_frames), float(contrast)


@pytest.mark.long
def test_videos_are_written_at_the_interval_and_resume_goes_on(tmp_path: Path):
    pytest.importorskip("imageio_ffmpeg")
    folder = tmp_path / "videos"
    with new(callbacks=RecordVideo(folder, 40), run_dir=tmp_path / "run") as trainer:
        trainer.train(60, log_interval=20)
    assert sorted(path.name for path in folder.iterdir()) == ["step-40.mp4"]
    with Trainer.load(tmp_path / "run", callbacks=RecordVideo(folder, 40)) as loaded:
        loaded.train(60)
    assert sorted(path.name for path in folder.iterdir()) == ["step-120.mp4", "step-40.mp4", "step-80.mp4"]
    n_frames, contrast = look_at(folder / "step-40.mp4")
    assert n_frames >= 8
    assert contrast > 1


def test_videos_of_a_run_before_are_not_taken_for_this_ones(tmp_path: Path):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "step-40.mp4").touch()
    with new(callbacks=RecordVideo(tmp_path, 40)) as trainer:
        trainer.train(40, log_interval=40)
    assert (tmp_path / "step-40.mp4").stat().st_size > 1000


def test_a_video_has_so_many_episodes_and_does_not_touch_training(tmp_path: Path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    lengths = []
    for n in (1, 3):
        with new(callbacks=RecordVideo(tmp_path / str(n), 40, n_episodes=n)) as trainer:
            filmed = trainer.train(60, log_interval=20)
        lengths.append(imageio_ffmpeg.count_frames_and_secs(str(tmp_path / str(n) / "step-40.mp4"))[0])
    assert lengths[1] > 2 * lengths[0]
    plain = new().train(60, log_interval=20)
    assert {k: v for k, v in plain.items() if "second" not in k} == {
        k: v for k, v in filmed.items() if "second" not in k
    }


def test_an_interval_between_records_is_met_by_the_next_one_and_said(tmp_path: Path):
    pytest.importorskip("imageio_ffmpeg")
    said = pytest.warns(UserWarning, match="pass log_interval=15, or a longer interval")
    with new(callbacks=RecordVideo(tmp_path, 15)) as trainer, said:
        trainer.train(40, log_interval=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-20.mp4", "step-40.mp4"]


def test_learning_from_data_has_no_videos_and_says_so(tmp_path: Path):
    pytest.importorskip("imageio_ffmpeg")
    said = pytest.warns(UserWarning, match="there will be no video")
    with new(dataset="cartpole-random", callbacks=RecordVideo(tmp_path, 20)) as trainer, said:
        trainer.train_offline(40, log_interval=20)
    assert list(tmp_path.iterdir()) == []


class Blind(CartPoleEnv):
    """Raises, or draws nothing, from its second picture on, or from the first."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 9}
    pictures = 0
    first, picture = 0, None

    def render(self) -> Any:
        Blind.pictures += 1
        if Blind.pictures > Blind.first:
            if Blind.picture is None:
                raise RuntimeError("no screen\nhere")
            return Blind.picture
        return np.zeros((16, 16, 3), np.uint8)


@pytest.mark.filterwarnings("ignore:.*WARN")
@pytest.mark.parametrize(("picture", "told"), [(None, "no screen here"), (np.zeros(3), r"pictures have shape \(3,\)")])
def test_an_environment_that_cannot_draw_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Any, told: str
):
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(Blind, "pictures", 0)
    monkeypatch.setattr(Blind, "picture", picture)
    blind: Any = Blind
    monkeypatch.setitem(gym.registry, "Blind-v0", EnvSpec("Blind-v0", entry_point=blind))
    with Trainer("awr", "Blind-v0", config=TINY, callbacks=RecordVideo(tmp_path, 20)) as trainer:
        with pytest.raises(ConfigError, match=told):
            trainer.train(40, log_interval=20, progress=False)
        assert trainer.env_steps == 0
        monkeypatch.setattr(Blind, "first", 10_000)
        monkeypatch.setattr(Blind, "pictures", 0)
        trainer.train(10, log_interval=10, progress=False)
        monkeypatch.setattr(Blind, "first", 0)
        with pytest.warns(UserWarning, match="RecordVideo: .*Training goes on"):
            RecordVideo(tmp_path, 1)(trainer, {})


@pytest.mark.filterwarnings("ignore:.*WARN")
@pytest.mark.parametrize("metadata", [{}, {"render.modes": ["human"]}])
def test_an_environment_that_names_no_render_modes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, Any]
):
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(Blind, "metadata", metadata)
    blind: Any = Blind
    monkeypatch.setitem(gym.registry, "Blind-v0", EnvSpec("Blind-v0", entry_point=blind))
    trainer = Trainer("awr", "Blind-v0", config=TINY, callbacks=RecordVideo(tmp_path, 20))
    with pytest.raises(ConfigError, match="its render modes are none"):
        trainer.train(40, progress=False)


def test_an_environment_without_an_id_is_refused_before_training(tmp_path: Path):
    with Trainer("awr", gym.make("CartPole-v1"), config=TINY, callbacks=RecordVideo(tmp_path, 20)) as trainer:
        with pytest.raises(ConfigError, match="RecordVideo needs an environment that is given by an id"):
            trainer.train(40)
        assert trainer.env_steps == 0


# Settings.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StopAtReward(math.nan), "threshold=nan must be a number"),
        (lambda: StopAtReward("475"), "threshold='475' must be a number"),  # pyright: ignore[reportArgumentType]
        (lambda: StopAtReward(1, metric="mean_reward"), "no record has the metric 'mean_reward'. Did you mean 'eval/m"),
        (lambda: KeepBest("a.safetensors", metric="eval/mean_rewrd"), "Did you mean 'eval/mean_reward'"),
        (lambda: StopAtReward(1, metric="rollout/mean_reward"), "no record has the metric 'rollout/mean_reward'. Did"),
        (lambda: StopAtReward(1, metric="Eval/mean_reward"), "Did you mean 'eval/mean_reward'"),
        (lambda: KeepBest("best.pt"), "'best.pt' must end in .safetensors"),
        (lambda: RecordVideo("videos", 0), "interval=0 must be a whole number of at least 1"),
        (lambda: RecordVideo("videos", 1, n_episodes=0), "n_episodes=0 must be a whole number"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(make: Any, message: str):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda path: StopAtReward(5), lambda path: KeepBest(path / "b.safetensors")])
def test_waiting_for_evaluations_that_there_are_none_of_is_warned_of(make: Any, tmp_path: Path):
    with new(callbacks=make(tmp_path)) as trainer:
        with pytest.warns(UserWarning, match="'eval/mean_reward', which never comes without evaluations"):
            trainer.train(20)
        trainer.train(40, **EVALUATED)  # No warning now.
