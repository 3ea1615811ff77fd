"""Presets: names, what they set, what overrides them."""

import json
from importlib.resources import files
from typing import Any

import gymnasium as gym
import pytest

from probes import Counting
from rlox import Trainer
from rlox.algorithms import ALGORITHMS, find_algorithm, register
from rlox.cli import main
from rlox.core.config import make_config, silenced
from rlox.errors import ConfigError
from rlox.plan import Plan, named_settings
from rlox.presets import BEST, OTHER_CONTINUOUS, OTHER_DISCRETE, PRESETS, TUNED, preset_settings, resolve_tuned
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
        known = PRESETS[algorithm]["tuned"].keys() - {OTHER_CONTINUOUS, OTHER_DISCRETE}
        assert known == presets["tuned"].keys(), algorithm
    # By hand: the mean of three seeds whose last evaluations are some steps apart, and the median of their seconds.
    assert shipped["awr"]["tuned"]["LunarLander-v3"] == {
        "mean_reward": 270.1,
        "env_steps": 1_000_006,
        "seconds": 250,
        "n_seeds": 3,
    }


def test_what_presets_reached_is_listed(capsys: pytest.CaptureFixture[str]):
    main(["list", "presets"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "awr tuned Hopper-v5 2965.1 after 1,000,002 steps, 234 s (3 seeds)" in lines
    assert "awr tuned Ant-v5 1048.8 after 100,009 steps, 66 s (1 seed)" in lines
    assert "awr paper Ant-v5" in lines
    assert "* awr tuned CartPole-v1 500.0 after 50,000 steps, 13 s (5 seeds)" in lines
    assert sum(line.startswith("* ") for line in lines) == len(BEST) + 1, "and what it means"


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


@pytest.mark.long
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
    with pytest.raises(ConfigError, match="'tuned' is not a preset of iql, which has none, unlike awr, mpo: "):
        Trainer("iql", "CartPole-v1", preset="tuned")


def test_a_whole_config_leaves_a_preset_nothing_to_set():
    with pytest.raises(ConfigError, match="pass a dict"):
        Trainer("awr", "CartPole-v1", preset="paper", config=ALGORITHMS["awr"].config())


def test_tuned_is_the_best_algorithm_of_an_environment_with_its_preset(capsys: pytest.CaptureFixture[str]):
    def refuse() -> bool:
        raise AssertionError("an environment that is known need not be made")

    for env, best in BEST.items():
        assert env in PRESETS[best][TUNED]
        if env not in (OTHER_CONTINUOUS, OTHER_DISCRETE):
            assert resolve_tuned("Tuned", None, env, refuse) == (best, TUNED)
    assert resolve_tuned("AWR", "paper", "CartPole-v1", refuse) == ("AWR", "paper")
    for env, kind in (("CartPole-v1", "CartPole-v1"), (Counting, OTHER_DISCRETE), ("Walker-v9", OTHER_CONTINUOUS)):
        name = env if isinstance(env, str) else None
        found = resolve_tuned(TUNED, TUNED, name, lambda kind=kind: kind == OTHER_DISCRETE)
        assert found == (BEST[kind], TUNED)
    with Trainer("tuned", "CartPole-v1", config={"beta": 2.0}) as trainer:
        wanted = make_config(ALGORITHMS["awr"].config, "awr", PRESETS["awr"]["tuned"]["CartPole-v1"] | {"beta": 2.0})
        assert (trainer.spec.algorithm, trainer.spec.preset, trainer.config) == ("awr", "tuned", wanted)
    main(["train", "tuned", "--env", "Pendulum-v1", "--n-envs=2", "--total-timesteps=9", "--print-config"])
    printed = capsys.readouterr()
    assert printed.err == "The best for Pendulum-v1: awr, preset tuned.\n"
    assert {'algorithm = "awr"', 'preset = "tuned"', "n_envs = 2", "td_lambda = 0.9"} <= set(printed.out.split("\n"))


def test_what_tuned_is_in_a_comparison_is_chosen_for_each_environment(tmp_path: Any):
    jobs = Plan(named_settings(["tuned"]), ["CartPole-v1", "Hopper-v5"], seeds=[0], over={"total_timesteps": 9}).jobs(
        tmp_path
    )
    assert [(job.label, job.spec.algorithm, job.spec.preset) for job in jobs] == [
        ("tuned", "awr", "tuned"),
        ("tuned", "mpo", "tuned"),
    ]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["train", "tuned"], "rlox train tuned needs --env ID"),
        (["train", "tuned", "--env"], "rlox train tuned needs --env ID"),
        (["train", "tuned", "--env", "CartPol-v1"], "Did you mean: `CartPole`?"),
        (["train", "tuned", "--env=CartPole-v1", "--preset=paper"], "has a preset of its own: leave out --preset"),
        (["train", "tuned", "--env", "CartPole-v1", "--betta", "1"], "'--betta' is not a flag of `rlox train awr`"),
        (["train", "tund", "--env", "CartPole-v1"], "Did you mean 'tuned'?"),
        (["tune", "tuned", "--env", "CartPole-v1"], "'tuned' is the best of several algorithms: name one of them"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_one_line(args: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        main(args)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rlox: error:")]
    assert exit_.value.code == 2
    assert len(lines) == 1
    assert told in lines[0]


def test_tuned_needs_an_environment_and_takes_no_other_preset():
    with pytest.raises(ConfigError, match=r"pass env=, or name an algorithm\."):
        Trainer("tuned", dataset="cartpole-medium")
    with pytest.raises(ConfigError, match="leave out preset='paper'"):
        Trainer("tuned", "CartPole-v1", preset="paper")
    with pytest.raises(ConfigError, match="'None' is not an algorithm of rlox"):
        Trainer(None, "CartPole-v1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="here, name an algorithm, such as 'awr'"):
        find_algorithm("Tuned")
    with pytest.raises(ConfigError, match="'tuned' is an algorithm already"):
        register("tuned", ALGORITHMS["awr"])
