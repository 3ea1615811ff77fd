"""Algorithms and environments of one's own: modules are imported because the caller names them."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import jaxtyping
import numpy as np
import pytest

import rlox
from rlox import ALGORITHMS, Trainer
from rlox.algorithms.awr import AWRConfig
from rlox.cli import main
from rlox.cli import train as train_commands
from rlox.envs.envs import make_envs
from rlox.errors import CheckpointError, ConfigError

SMALL = {"hidden": 8, "batch_size": 16, "learning_starts": 50}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
FLAGS += ["--total-timesteps", "80", "--n-eval-episodes", "1", "--run-dir", "run"]

OWN_ENV = """
import gymnasium as gym
from pathlib import Path
from gymnasium.envs.classic_control import CartPoleEnv

Path("imported").touch()

class Mine(CartPoleEnv):
    pass

gym.register("Mine-v0", entry_point="own_env:Mine", max_episode_steps=20)
"""
OWN_ALGORITHM = '''
import dataclasses
from rlox import ALGORITHMS, register
from rlox.algorithms.awr import AWRConfig
from rlox.core.config import setting

@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnConfig(AWRConfig):
    """Settings of own: AWR with another name."""

    sharpness: float = setting(2.0, above=0)
    """How sharp it is."""

awr = ALGORITHMS["awr"]
register("own", type(awr)(**{**{name: getattr(awr, name) for name in awr.__annotations__}, "config": OwnConfig}))
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a folder with modules that nothing has imported yet; forget them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_env.py").write_text(OWN_ENV)
    Path("own_algorithm.py").write_text(OWN_ALGORITHM)
    yield tmp_path
    forget()


def forget() -> None:
    for module in ("own_env", "own_algorithm", "broken"):
        sys.modules.pop(module, None)
    gym.registry.pop("Mine-v0", None)
    ALGORITHMS.pop("own", None)
    for name in ("own", "OWN"):
        if name in train_commands.app:
            del train_commands.app[name]


def error_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith("rlox: error: ")
    assert err.count("\n") == 1, err
    assert out == ""
    return err


@pytest.mark.long
def test_an_environment_of_one_s_own_is_trained_in_and_named_again_afterwards(here: Path, capsys: Any):
    main(["train", "awr", "--env", "own_env:Mine-v0", *FLAGS])
    told = capsys.readouterr().out
    assert "rlox play run --env own_env:Mine-v0" in told
    forget()
    Path("imported").unlink()
    for command in (["evaluate", "run"], ["play", "run", "--video", "x.gif"]):
        told = error_of(command, capsys)
        assert 'env="own_env:Mine-v0"' in told
        assert "--env own_env:Mine-v0" in told
    main(["dataset", "create", "replay.npz", "--run", "run", "--replay"])
    assert "80 steps" in capsys.readouterr().out
    assert not Path("imported").exists()
    assert "own_env" not in sys.modules
    env = ["--env", "own_env:Mine-v0"]
    main(["evaluate", "run", "--n-episodes", "1", *env])
    assert "Evaluation over 1 episode:" in capsys.readouterr().out
    assert Path("imported").exists()
    main(["play", "run", "--video", "x.gif", *env])
    main(["dataset", "create", "random.npz", "--n-steps", "20", *env])
    main(["dataset", "create", "policy.npz", "--n-steps", "20", "--run", "run", *env])
    main(["dataset", "info", "random.npz", *env])
    main(["dataset", "convert", "random.npz", "other.npz", *env])
    assert Path("other.npz").exists()


def test_a_saved_run_never_imports_the_module_of_its_environment(here: Path):
    trainer = Trainer("awr", "own_env:Mine-v0", config=SMALL)
    trainer.train(60)
    trainer.save("run")
    action = trainer.predict([0.0, 0.0, 0.0, 0.0])
    forget()
    Path("imported").unlink()
    loaded = Trainer.load("run")
    assert (loaded.spec.env, loaded.predict([0.0, 0.0, 0.0, 0.0])) == ("own_env:Mine-v0", action)
    for use in (lambda: loaded.evaluate(1), lambda: loaded.train(10)):
        with pytest.raises(ConfigError, match='pass env="own_env:Mine-v0" again'):
            use()
    loaded.save("again")
    assert Trainer.load("again").spec.env == "own_env:Mine-v0"
    assert not Path("imported").exists()
    assert Trainer.load("run", env="own_env:Mine-v0").train(10)["env_steps"] == 70
    assert Path("imported").exists()


def test_environments_of_one_s_own_step_in_processes(here: Path):
    envs = make_envs("own_env:Mine-v0", 2, "async")
    assert np.shape(envs.reset(0)) == (2, 4)
    envs.close()


def test_a_config_file_never_imports_a_module(here: Path, capsys: pytest.CaptureFixture[str]):
    Path("run.toml").write_text('env = "own_env:Mine-v0"\ntotal_timesteps = 10\n')
    assert "--env own_env:Mine-v0" in error_of(["train", "awr", "--config", "run.toml"], capsys)
    assert not Path("imported").exists()
    main(["train", "awr", "--config", "run.toml", "--env", "own_env:Mine-v0", "--print-config"])
    assert 'env = "own_env:Mine-v0"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("own_evn:Mine-v0", ["no module 'own_evn'", "Did you mean 'own_env'?"]),
        ("own_env:Mine-v7", ["could not be created", "`v0`"]),
        ("own_env:Mines-v0", ["could not be created", "`Mine`"]),
        ("own_env:", ["could not be created"]),
        (":Mine-v0", ["'' is not the name of a module"]),
        ("../own_env:Mine-v0", ["'../own_env' is not the name of a module"]),
        ("broken:Mine-v0", ["'broken' needs 'missing_package'"]),
    ],
)
def test_a_module_or_an_id_that_is_missing(here: Path, env: str, words: list[str], capsys: Any):
    Path("broken.py").write_text("import missing_package\n")
    told = error_of(["train", "awr", "--env", env, "--total-timesteps", "10"], capsys)
    assert all(word in told for word in [f"Environment '{env}'", *words]), told
    with pytest.raises(ConfigError):
        Trainer("awr", env)


@pytest.mark.long
def test_an_algorithm_of_one_s_own_is_a_command_with_flags(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    own = ["--import", "own_algorithm"]
    assert "--import MODULE" in error_of(["train", "own_one"], capsys)
    main([*own, "train", "own", "--env", "CartPole-v1", "--sharpness", "3", *FLAGS])
    main([*own, "list"])
    assert "Own: AWR with another name." in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "200")
    main([*own, "train", "own", "--help"])
    assert "How sharp it is. [default: 2]" in capsys.readouterr().out
    assert "Did you mean '--sharpness'?" in error_of(["train", "OWN", "--sharpnes", "3", *own], capsys)
    forget()
    # A policy acts without its algorithm; what continues the run needs it.
    main(["evaluate", "run", "--n-episodes", "1"])
    assert "Evaluation over 1 episode:" in capsys.readouterr().out
    main(["export", "run", "x.onnx"])
    assert Path("x.onnx").exists()
    capsys.readouterr()
    for command in (
        ["evaluate", "run", "--dataset", "cartpole-random"],
        ["dataset", "create", "x.npz", "--run", "run"],
    ):
        told = error_of(command, capsys)
        assert "'own'" in told
        assert "--import MODULE" in told
    assert "own_algorithm" not in sys.modules
    main(["dataset", "create", "x.npz", "--run", "run", "--n-steps", "5", *own])
    assert Path("x.npz").exists()


def test_a_run_of_an_algorithm_that_is_not_registered_says_so_in_python(here: Path):
    import own_algorithm  # pyright: ignore[reportMissingImports]

    Trainer("own", "CartPole-v1", config=SMALL).save("run")
    forget()
    with pytest.raises(CheckpointError, match="import the module that registers it first") as error:
        Trainer.load("run")
    assert "\n" not in str(error.value)
    assert own_algorithm.OwnConfig().sharpness == 2


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("own_algoritm", ["no module 'own_algoritm'", "Did you mean 'own_algorithm'?"]),
        ("own_algorithm.py", ["Did you mean 'own_algorithm'?"]),
        ("./own_algorithm", ["is not the name of a module"]),
        ("broken", ["'broken' needs 'missing_package'"]),
    ],
)
def test_a_module_that_cannot_be_imported(here: Path, module: str, words: list[str], capsys: Any):
    Path("broken.py").write_text("import missing_package\n")
    told = error_of(["--import", module, "list"], capsys)
    assert all(word in told for word in [f"--import {module}", *words]), told


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("awr", "is an algorithm already"),
        ("sac", "is an algorithm already"),
        ("My_awr", "lower-case"),
        ("my-awr", "lower-case"),
        ("1awr", "lower-case"),
        ("", "lower-case"),
    ],
)
def test_names_that_cannot_be_registered(name: str, words: str):
    with pytest.raises(ConfigError, match=words):
        rlox.register(name, ALGORITHMS["awr"])
    assert list(ALGORITHMS) == ["awr", "bc", "marwil", "awac", "crr", "iql", "mpo", "ppo", "sac", "td3"]


def test_only_algorithms_are_registered(monkeypatch: pytest.MonkeyPatch):
    wrong: Any = AWRConfig
    with pytest.raises(ConfigError, match="register takes an"):
        rlox.register("own", wrong)
    awr = ALGORITHMS["awr"]
    fields: dict[str, Any] = {name: getattr(awr, name) for name in type(awr).__annotations__}
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match="subclass of"):
        rlox.register("own", type(awr)(**{**fields, "config": dict}))


def test_a_class_without_render_mode_cannot_be_played_and_what_was_imported_is_named_again(here: Path, capsys: Any):
    Path("plain_env.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Plain(CartPoleEnv):\n    def __init__(self):\n        super().__init__()\n"
        "gym.register('Plain-v0', entry_point=Plain, max_episode_steps=9)\n"
    )
    main(["train", "awr", "--env", "plain_env:Plain-v0", "--import", "own_env", *FLAGS])
    assert "rlox play run --env plain_env:Plain-v0 --import own_env\n" in capsys.readouterr().out
    told = error_of(["play", "run", "--env", "plain_env:Plain-v0"], capsys)
    assert "'plain_env:Plain-v0' cannot be shown: its constructor takes no render_mode." in told
    sys.modules["plain_env"].Plain.__init__ = lambda self, render_mode=None: {}["mine"]
    with pytest.raises(KeyError):
        main(["play", "run", "--env", "plain_env:Plain-v0"])
    gym.registry.pop("Plain-v0")


def test_a_window_that_nobody_can_see_is_warned_of(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    main(["train", "awr", "--env", "CartPole-v1", *FLAGS])
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        main(["play", "run", "--n-episodes", "2"])
    shown = capsys.readouterr()
    assert "Episode 2: return" in shown.out
    assert "rlox: warning: There is no screen for a window (DISPLAY is not set): write a video" in shown.err
    main(["play", "run", "--video", "x.gif"])
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    main(["play", "run"])


@pytest.mark.long
def test_a_file_cannot_be_the_folder_of_several_runs(here: Path, capsys: Any):
    Path("afile").write_text("mine")
    budget = ["--env", "CartPole-v1", "--total-timesteps", "9"]
    for command in (["compare", "--algorithms", "awr", *budget, "--output", "afile"],
                    ["tune", "awr", *budget, "--trials", "1", "--output", "afile"],
                    ["train", "awr", *budget, "--seeds", "2", "--run-dir", "afile"]):  # fmt: skip
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(command)
        assert "rlox: error: 'afile' is a file: name a folder." in capsys.readouterr().err
    assert Path("afile").read_text() == "mine"
