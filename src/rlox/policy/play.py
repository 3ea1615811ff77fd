"""Watching a policy: in a window, or as a video file."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rlox.envs.collector import Episode
from rlox.envs.envs import Envs, find_spec
from rlox.errors import ConfigError, one_line
from rlox.files import refusing, writing
from rlox.policy.episodes import check_fits, episodes
from rlox.policy.policy import Predictor


def play(policy: Predictor, env_id: str, video: Path | None, n_episodes: int, seed: int) -> Iterator[Episode]:
    """Yield episodes as they end, shown in a window or, if ``video`` is given, written to that file.

    Warns if there is no screen for a window.

    Raises:
        ConfigError: the environment cannot be shown that way, a package for it is missing, the file's ending is not
            one that a video can be written to, or it cannot be written.
    """
    if video is not None and video.suffix not in (".mp4", ".gif"):
        raise ConfigError(f"video '{video}' must end in .mp4 or .gif.")
    env = _make(env_id, "human" if video is None else "rgb_array")
    if video is None and not _has_screen():
        warnings.warn(
            "There is no screen for a window (DISPLAY is not set): write a video instead, by --video FILE.mp4.",
            stacklevel=2,
        )
    try:
        with contextlib.ExitStack() as stack:
            if video is not None:
                show = stack.enter_context(_filming(video, env.metadata.get("render_fps", 30)))
                env = _Filmed(env, show)
            envs = Envs(env)
            check_fits(policy, envs)
            yield from episodes(envs, policy.predict, n_episodes, seed)
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(
            f"Environment '{env_id}' cannot be shown: {one_line(error)} (the extra rlox[video] has it)."
        ) from None
    finally:
        env.close()


def _has_screen() -> bool:
    """Whether a window can be seen, as far as the variables tell by which Linux says so."""
    return sys.platform != "linux" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    )


def check_video(env_id: str) -> None:
    """Refuse an environment of which no mp4 video can be made here.

    Raises:
        ConfigError: it cannot be shown, or a package is missing.
    """
    _check_ffmpeg()
    env = _make(env_id, "rgb_array")
    try:
        env.reset(seed=0)
        frame = np.asarray(env.render())
    except Exception as error:  # of a simulator that finds no screen
        what = one_line(error) if str(error) else type(error).__name__
        raise ConfigError(f"Environment '{env_id}' cannot be shown: {what}") from None
    finally:
        env.close()
    if frame.ndim != 3:
        raise ConfigError(
            f"Environment '{env_id}' cannot be shown: its pictures have shape {frame.shape}, not (height, width, 3)."
        )


class _Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """Hands every frame to ``show``: that of a reset once a step has followed it."""

    def __init__(self, env: gym.Env[Any, Any], show: Callable[[Any], Any]):
        super().__init__(env)
        self._show, self._first = show, None

    def reset(self, **options: Any) -> Any:
        result = super().reset(**options)
        self._first = np.asarray(self.render())
        return result

    def step(self, action: Any) -> Any:
        if self._first is not None:
            self._show(self._first)
            self._first = None
        result = super().step(action)
        self._show(np.asarray(self.render()))
        return result


def _make(env_id: str, mode: str) -> gym.Env[Any, Any]:
    try:
        with warnings.catch_warnings():
            # Gymnasium warns of a render mode that there is not; below that is an error.
            warnings.filterwarnings("ignore", ".*render_mode.*", UserWarning)
            env = gym.make(find_spec(env_id), render_mode=mode)
    except (gym.error.Error, ImportError) as error:
        raise ConfigError(f"Environment '{env_id}' cannot be shown: {one_line(error)}") from None
    except TypeError as error:
        if "unexpected keyword argument 'render_mode'" not in str(error):
            raise
        raise ConfigError(f"Environment '{env_id}' cannot be shown: its constructor takes no render_mode.") from None
    known = (env.metadata or {}).get("render_modes") or ()
    if mode not in known:
        modes = ", ".join(known) or "none"
        env.close()
        raise ConfigError(f"Environment '{env_id}' cannot be shown as '{mode}': its render modes are {modes}.")
    return env


@contextlib.contextmanager
def _filming(video: Path, fps: int) -> Iterator[Callable[[Any], None]]:
    """Give what takes the frames of a video, which is in place once all of them are there."""
    with writing(video) as side:
        writer = _open_video(side, fps)

        def show(frame: Any) -> None:
            with refusing(video), _programs():
                writer.append_data(np.asarray(frame))

        try:
            yield show
        finally:
            with refusing(video):
                writer.close()
        if video.suffix == ".mp4":
            with refusing(video), _programs():
                _check_whole(side)


@contextlib.contextmanager
def _programs() -> Iterator[None]:
    """Let ffmpeg be started without JAX's warning of forks: it is a program of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*os.fork.*", RuntimeWarning)
        yield


def _check_whole(video: Path) -> None:
    """Read the file again, since nothing tells that ffmpeg could not write its end."""
    import imageio_ffmpeg

    try:
        imageio_ffmpeg.count_frames_and_secs(video)
    except RuntimeError:
        raise OSError("ffmpeg stopped") from None


def _open_video(video: Path, fps: int) -> Any:
    try:
        import imageio.v2 as imageio
    except ImportError:
        raise ConfigError("Videos need the extra rlox[video]: pip install '.[video]' in a clone of rlox.") from None
    if video.suffix == ".gif":
        return imageio.get_writer(video, duration=1000 / fps)
    _check_ffmpeg()
    # Macro blocks of 2, so that frames keep their size: the default rounds it to multiples of 16.
    return imageio.get_writer(video, fps=fps, macro_block_size=2, ffmpeg_log_level="quiet")


def _check_ffmpeg() -> None:
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise ConfigError("mp4 videos need the extra rlox[video]: pip install '.[video]' in a clone of rlox.") from None
