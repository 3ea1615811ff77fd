"""Watching a policy: in a window, or as a video file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlox.envs.collector import Episode
from rlox.envs.envs import find_spec
from rlox.errors import ConfigError, one_line

Predict = Callable[[Any], NDArray[Any]]
"""From an observation to an action that the environment accepts."""


def play(predict: Predict, env_id: str, video: Path | None, n_episodes: int, seed: int) -> Iterator[Episode]:
    """Yield episodes as they end, shown in a window or, where ``video`` is given, written to that file.

    Raises:
        ConfigError: the environment cannot be shown that way, a package for it is missing, or the file's ending is
            not one that a video can be written to.
    """
    mode = "human" if video is None else "rgb_array"
    if video is not None:
        if video.suffix not in (".mp4", ".gif"):
            raise ConfigError(f"video '{video}' must end in .mp4 or .gif.")
        if not video.parent.is_dir():
            raise ConfigError(f"video '{video}' cannot be written: there is no folder '{video.parent}'.")
    spec = find_spec(env_id)
    try:
        env = gym.make(spec, render_mode=mode)
    except (gym.error.Error, ImportError) as error:
        raise ConfigError(f"Environment '{env_id}' cannot be shown: {one_line(error)}") from None
    if mode not in env.metadata.get("render_modes", ()):
        raise ConfigError(
            f"Environment '{env_id}' cannot be shown as '{mode}': it knows {env.metadata['render_modes']}."
        )
    try:
        if video is None:
            yield from _episodes(env, predict, n_episodes, seed, lambda: None)
            return
        writer = _open_video(video, env.metadata.get("render_fps", 30))
        with writer:
            yield from _episodes(env, predict, n_episodes, seed, lambda: _append(writer, env.render()))
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(
            f"Environment '{env_id}' cannot be shown: {one_line(error)} (the extra rlox[video] has it)."
        ) from None
    finally:
        env.close()


def _episodes(
    env: gym.Env[Any, Any], predict: Predict, n_episodes: int, seed: int, after_step: Callable[[], Any]
) -> Iterator[Episode]:
    for i in range(n_episodes):
        obs, _ = env.reset(seed=seed if i == 0 else None)
        episode_return, length, ended = 0.0, 0, False
        while not ended:
            after_step()
            obs, reward, terminated, truncated, _ = env.step(predict(obs))
            episode_return, length, ended = episode_return + float(reward), length + 1, terminated or truncated
        after_step()
        yield Episode(episode_return, length)


def _append(writer: Any, frame: Any) -> None:
    with warnings.catch_warnings():
        # JAX warns of forks, but ffmpeg is started as a program of its own.
        warnings.filterwarnings("ignore", ".*os.fork.*", RuntimeWarning)
        writer.append_data(np.asarray(frame))


def _open_video(video: Path, fps: int) -> Any:
    try:
        import imageio.v2 as imageio
    except ImportError:
        raise ConfigError("Videos need the extra rlox[video]: pip install 'rlox[video]'.") from None
    if video.suffix == ".gif":
        return imageio.get_writer(video, duration=1000 / fps)
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise ConfigError("mp4 videos need the extra rlox[video]: pip install 'rlox[video]'.") from None
    # Macro blocks of 2, so that frames keep their size: the default rounds it to multiples of 16.
    return imageio.get_writer(video, fps=fps, macro_block_size=2)
