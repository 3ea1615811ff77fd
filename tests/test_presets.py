"""Presets: names, what they set, what overrides them."""

import json
from importlib.resources import files
from typing import Any

import gymnasium as gym
import pytest

from probes import Counting
from rlox import Trainer
from rlox.algorithms import ALGORITHMS
from rlox.cli import main
from rlox.core.config import make_config, silenced
from rlox.errors import ConfigError
from rlox.presets import OTHER_CONTINUOUS, OTHER_DISCRETE, PRESETS, preset_settings
from scores import RESULTS, scores

EVERY = [(a, name, env) for a, presets in PRESETS.items() for name, envs in presets.items() for env in envs]


@pytest.mark.parametrize(("algorithm", "name", "env"), EVERY)
def test_every_preset_is_a_valid_configuration_of_an_environment_that_there_is(algorithm: str, name: str, env: str):
    settings = PRESETS[algorithm][name][env]
    config = make_config(ALGORITHMS[algorithm].config, algorithm, settings)
    actions = "discrete" if "discrete" in env or "logit_coef" in settings else "continuous"
    if env not in ("CartPole-v1", "Acrobot-v1"):
        assert silenced(config, actions=actions, dataset=False) == []
    assert env in (OTHER_CONTINUOUS, OTHER_DISCRETE) or gym.spec(env)


def test_scores_are_those_of_the_benchmarks_results():
    shipped = json.loads((files("rlox") / "scores.json").read_text())
    assert shipped == scores()
    for algorithm, presets in shipped.items():
        for name, environments in presets.items():
            assert environments.keys() <= PRESETS[algorithm][name].keys()
    assert PRESETS["awr"]["tuned"].keys() - {OTHER_CONTINUOUS, OTHER_DISCRETE} == shipped["awr"]["tuned"].keys()
    # A mean by hand, over three seeds whose last evaluations are some steps apart.
    assert shipped["awr"]["tuned"]["LunarLander-v3"] == {
        "mean_reward": 270.1,
        "env_steps": 1_000_006,
        "seconds": 251,
        "n_seeds": 3,
    }


def test_what_presets_reached_is_listed(capsys: pytest.CaptureFixture[str]):
    main(["list", "presets"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "awr tuned Hopper-v5 2965.1 after 1,000,002 steps, 235 s (3 seeds)" in lines
    assert "awr tuned Ant-v5 1048.8 after 100,009 steps, 66 s (1 seed)" in lines
    assert "awr paper Ant-v5" in lines


@pytest.mark.parametrize(
    ("env", "step", "std"),
    [
        ("Ant-v5", 5e-5, 0.2), ("HalfCheetah-v5", 5e-5, 0.4), ("Hopper-v5", 1e-4, 0.4), ("Humanoid-v5", 1e-5, 0.4),
        ("Walker2d-v5", 2.5e-5, 0.4), ("LunarLander-v3", 5e-4, None),
    ],
)  # fmt: skip
def test_the_papers_preset_has_the_papers_values(env: str, step: float, std: float | None):
    settings = preset_settings("awr", "paper", env, discrete=std is None)
    common = {
        "rollout_steps": 2048, "buffer_size": 50_000, "td_lambda": 0.95, "n_critic_updates": 200, "gamma": 0.99,
        "n_actor_updates": 1000, "beta": 1.0, "max_advantage": 20.0, "normalize_advantage": True, "batch_size": 256,
        "hidden": (128, 64), "optimizer": "sgd", "momentum": 0.9, "actor_output_scale": 0.01,
        "value_scale": 100.0,
    }  # fmt: skip
    assert {name: settings[name] for name in common} == common
    assert settings["actor_learning_rate"] == step
    assert settings["normalize_obs_until"] == (300_000 if std else 100_000)
    if std:
        assert (settings["learn_std"], settings["initial_std"], settings["bound_coef"]) == (False, std, 10.0)
    else:
        assert settings["logit_coef"] == 0.001


def test_presets_step_as_many_environments_as_their_scores_were_measured_with():
    from rlox.runs.history import read_runs

    runs = [run for file in RESULTS.glob("paper_*.json") for run in read_runs(file)]
    measured = {
        (run.spec["preset"], run.spec["env"]): run.spec["config"]["n_envs"]
        for run in runs
        if "n_envs" in run.spec["config"]
    }
    assert len(measured) == 3
    for (preset, env), n_envs in measured.items():
        assert PRESETS["awr"][preset][env]["n_envs"] == n_envs, env


def test_an_environment_without_values_of_its_own_gets_those_of_its_kind_of_action():
    for env, expected in (
        ("CartPole-v1", OTHER_DISCRETE),
        ("Pendulum-v1", OTHER_CONTINUOUS),
        (Counting, OTHER_DISCRETE),
    ):
        trainer = Trainer("awr", env, preset="paper")
        wanted = make_config(ALGORITHMS["awr"].config, "awr", PRESETS["awr"]["paper"][expected])
        assert trainer.config == wanted


def test_config_overrides_the_preset_and_the_run_remembers_both(tmp_path: Any):
    trainer = Trainer("awr", "CartPole-v1", preset="paper", config={"beta": 2.0})
    assert (trainer.config.beta, trainer.config.td_lambda) == (2.0, 0.95)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path)
    assert (loaded.spec.preset, loaded.config) == ("paper", trainer.config)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'papr' is not a preset of awr\. Did you mean 'paper'"):
        Trainer("awr", "CartPole-v1", preset="papr")


def test_an_algorithm_without_presets_is_said_to_have_none():
    with pytest.raises(ConfigError, match="'tuned' is not a preset of iql, which has none, unlike awr: leave it out"):
        Trainer("iql", "CartPole-v1", preset="tuned")


def test_a_whole_config_leaves_a_preset_nothing_to_set():
    with pytest.raises(ConfigError, match="pass a dict"):
        Trainer("awr", "CartPole-v1", preset="paper", config=ALGORITHMS["awr"].config())
