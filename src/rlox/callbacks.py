"""What may happen with every record of a training: stop at a reward, keep the best policy, record videos."""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rlox.arguments import check_positive
from rlox.errors import CheckpointError, ConfigError, DivergedError, did_you_mean, one_line
from rlox.runs import checkpoint
from rlox.spec import evaluation_seed

if TYPE_CHECKING:
    from rlox.trainer import Trainer

Callback = Callable[["Trainer", dict[str, float]], bool | None]
"""Called with the trainer and a record of metrics; returning False ends the training."""

_EVALUATED = ("mean_reward", "std_reward", "min_reward", "max_reward", "mean_length", "n_episodes")


@runtime_checkable
class StartsFirst(Protocol):
    """A callback that is also called when a training begins."""

    def on_training_start(self, trainer: Trainer) -> None:
        """Look at what is to come; an error is raised before the first step."""
        ...


class StopAtReward:
    """Ends training at the first record whose metric has reached a threshold, and says so on stderr.

    Args:
        threshold: the least value at which training ends.
        metric: a metric of the records. ``eval/...`` are in those of evaluations, and need an ``eval_interval``.

    Raises:
        ConfigError: a threshold that is not a number, or a metric that no record has.
    """

    def __init__(self, threshold: float, metric: str = "eval/mean_reward"):
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
            raise ConfigError(f"StopAtReward: threshold={threshold!r} must be a number.")
        self._threshold, self._metric = threshold, _check_metric("StopAtReward", metric)

    def on_training_start(self, trainer: Trainer) -> None:
        """Warn of a metric that there will not be."""
        _warn_without_evaluation("StopAtReward", self._metric, trainer)

    def __call__(self, trainer: Trainer, metrics: Mapping[str, float]) -> bool:
        """Return False once the metric has reached the threshold."""
        value = metrics.get(self._metric, math.nan)
        if not value >= self._threshold:
            return True
        print(f"Stopped at {_now(trainer)}: {self._metric} is {value:.4g}.", file=sys.stderr, flush=True)
        return False


class KeepBest:
    """Writes the policy to a file whenever a metric is higher than it ever was; ``Policy.load`` reads it.

    A run that continues goes on with the file, in which the value is noted, and never replaces a better policy by a
    worse one.

    Args:
        path: the file, ending in .safetensors.
        metric: as in ``StopAtReward``.

    Raises:
        ConfigError: another ending, or a metric that no record has. When training begins: there is no such folder, or
            the file is not of a run that continues.
    """

    def __init__(self, path: str | Path, metric: str = "eval/mean_reward"):
        self._path, self._metric = Path(path).absolute(), _check_metric("KeepBest", metric)
        if self._path.suffix != ".safetensors":
            raise ConfigError(f"'{path}' must end in .safetensors.")
        self._best = -math.inf

    def on_training_start(self, trainer: Trainer) -> None:
        """Find out what the best one was so far."""
        checkpoint.check_target(self._path)
        _warn_without_evaluation("KeepBest", self._metric, trainer)
        if not self._path.exists():
            return
        # Before its first step, only a run that is there already has a checkpoint.
        goes_on = trainer.run_dir is not None and checkpoint.exists(Path(trainer.run_dir))
        if trainer.env_steps == trainer.gradient_steps == 0 and not goes_on:
            raise ConfigError(f"'{self._path}' is there already, and this run is new: name another file for KeepBest.")
        with contextlib.suppress(CheckpointError, KeyError, TypeError, ValueError):
            about = checkpoint.header(self._path)["about"]
            if about["metric"] == self._metric:
                self._best = max(self._best, float(about["value"]))
                return
        raise ConfigError(f"'{self._path}' was not written by KeepBest with '{self._metric}': name another file.")

    def __call__(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Write the policy if it is the best so far."""
        value = metrics.get(self._metric, math.nan)
        if value > self._best:
            with _going_on("KeepBest"):
                about = {"metric": self._metric, "value": value, "env_steps": trainer.env_steps}
                trainer.policy.save(self._path, about=about)
                self._best = value


class RecordVideo:
    """Writes ``FOLDER/step-N.mp4``, episodes of the policy in an environment of its own, as training goes on.

    There is a video at the first record at or after each multiple of the interval. It needs the extra rlox[video] and
    an environment that was given by an id.

    Args:
        folder: where the videos go; made if it is not there.
        interval: environment steps between videos.
        n_episodes: episodes in each.

    Raises:
        ConfigError: a number below 1. When training begins: an environment without an id, or that cannot be shown.
    """

    def __init__(self, folder: str | Path, interval: int, n_episodes: int = 1):
        check_positive(interval=interval, n_episodes=n_episodes)
        self._folder, self._interval, self._n_episodes = Path(folder).absolute(), interval, n_episodes
        self._last = 0
        """Environment steps at the last video."""

    def on_training_start(self, trainer: Trainer) -> None:
        """Check that videos can be made, and find the last one of a run that continues."""
        from rlox.policy.play import check_video

        if trainer.spec.env is None:
            raise ConfigError("RecordVideo needs an environment that is given by an id, such as env='CartPole-v1'.")
        check_video(trainer.spec.env)
        cursor, budget = trainer.standing.cursor, trainer.spec.budget
        if cursor is not None and cursor.offline:
            _warn("RecordVideo counts environment steps, and learning from data takes none: there will be no video.")
        elif budget.log_interval > self._interval:
            _warn(
                f"RecordVideo(interval={self._interval:,}) can only record with the records, every "
                f"{budget.log_interval:,} steps: pass log_interval={self._interval}, or a longer interval."
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"Videos cannot be written to '{self._folder}': {error.strerror}.") from None
        steps = [int(path.stem[5:]) for path in self._folder.glob("step-*.mp4") if path.stem[5:].isdigit()]
        self._last = max((n for n in steps if n <= trainer.env_steps), default=0)

    def __call__(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Write a video if one is due."""
        from rlox.policy.play import play

        now, env_id = trainer.env_steps, trainer.spec.env
        if env_id is None or now // self._interval == self._last // self._interval:
            return
        self._last = now
        with _going_on("RecordVideo", Exception):  # a simulator that cannot draw raises what it likes
            video = self._folder / f"step-{now}.mp4"
            for _ in play(trainer.policy, env_id, video, self._n_episodes, evaluation_seed(trainer.spec.seed)):
                pass


def _check_metric(who: str, metric: str) -> str:
    """Return a metric that a record may have.

    Raises:
        ConfigError: none has it.
    """
    known = [*(f"eval/{name}" for name in _EVALUATED), "rollout/episode_return", "rollout/episode_length"]
    group, slash, _ = metric.partition("/")
    if not slash or (group.lower() in ("eval", "rollout") and metric not in known):
        near = did_you_mean(metric, known)
        raise ConfigError(f"{who}: no record has the metric '{metric}'.{near}")
    return metric


def _warn_without_evaluation(who: str, metric: str, trainer: Trainer) -> None:
    if metric.startswith("eval/") and trainer.spec.budget.eval_interval is None:
        _warn(f"{who} waits for '{metric}', which never comes without evaluations: pass eval_interval= to train.")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=6)


def _now(trainer: Trainer) -> str:
    cursor = trainer.standing.cursor
    offline = cursor is not None and cursor.offline
    return f"gradient step {trainer.gradient_steps:,}" if offline else f"step {trainer.env_steps:,}"


@contextlib.contextmanager
def _going_on(who: str, errors: type[Exception] = ConfigError) -> Iterator[Any]:
    """Say what cannot be written, as a run folder does, and go on."""
    try:
        yield
    except DivergedError:
        raise
    except errors as error:
        _warn(f"{who}: {one_line(error)} Training goes on.")
