"""The command line: runs from end to end, what it says of bad input, help."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from disk import full
from rlox import Dataset, Policy, Trainer, __version__
from rlox.cli import app, main
from rlox.errors import DivergedError

SMALL = ["--hidden", "8", "--batch-size", "16", "--learning-starts", "100", "--n-eval-episodes", "2"]
TRAIN = ["train", "awr", "--env", "CartPole-v1", "--total-timesteps", "10"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "first"
    args = ["train", "awr", "--env", "CartPole-v1", "--total-timesteps", "300", "--seed", "7", "--run-dir", str(folder)]
    main([*args, *SMALL, "--beta", "0.5", "--eval-interval", "150", "--log-interval", "100"])
    return folder


@pytest.mark.long
def test_train_leaves_a_whole_run_folder(run: Path):
    described = json.loads((run / "config.json").read_text())
    assert (described["algorithm"], described["env"], described["seed"]) == ("awr", "CartPole-v1", 7)
    assert (described["config"]["beta"], described["config"]["hidden"]) == (0.5, 8)
    assert {"rlox", "jax", "gymnasium", "python"} <= described["versions"].keys()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["env_steps"] == 300
    assert {"actor/loss", "critic/loss", "weight/effective_sample_size", "eval/mean_reward"} <= records[-1].keys()
    assert (run / "checkpoint.safetensors").exists()
    assert list(run.glob("events.out.tfevents.*"))


@pytest.mark.long
def test_train_says_what_was_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.chdir(tmp_path)
    main(["train", "AWR", "--env", "CartPole-v1", "--total-timesteps", "150", *SMALL])
    out, err = capsys.readouterr()
    for words in (
        "Trained 150 steps",
        "Mean reward",
        "Evaluation over 2 episodes",
        "rlox play runs/awr-CartPole-v1-42",
    ):
        assert words in out
    assert "150/150 steps" in err
    assert (tmp_path / "runs" / "awr-CartPole-v1-42" / "checkpoint.safetensors").exists()


def test_evaluate_prints_the_same_numbers_twice(run: Path, capsys: pytest.CaptureFixture[str]):
    told = []
    for _ in range(2):
        main(["evaluate", str(run), "--n-episodes", "3"])
        told.append(capsys.readouterr().out)
    assert "Evaluation over 3 episodes" in told[0]
    assert told[0] == told[1]


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_play_writes_a_video(run: Path, name: str, capsys: pytest.CaptureFixture[str]):
    main(["play", str(run), "--video", str(run / name), "--seed", "1", "--env", "CartPole-v1"])
    assert "Episode 1: return" in capsys.readouterr().out
    assert (run / name).stat().st_size > 1000


@pytest.mark.long
def test_the_seed_of_episodes_counts_in_a_pool_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("envpool")
    monkeypatch.chdir(tmp_path)
    pool = ["--vectorization-mode", "envpool", "--n-envs", "2"]
    main(["train", "awr", "--env", "Pendulum-v1", "--total-timesteps", "150", *SMALL, *pool, "--run-dir", "run"])
    told = []
    for seed in ("1", "1", "2"):
        capsys.readouterr()
        main(["evaluate", "run", "--n-episodes", "2", "--seed", seed])
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] != told[2]


@pytest.mark.long
def test_a_policy_learns_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "observations": rng.normal(size=(60, 4)),
        "actions": rng.integers(2, size=60),
        "rewards": np.ones(60),
        "terminals": np.arange(60) % 20 == 19,
    }
    np.savez("logs.npz", **columns)
    main(["train", "iql", "--dataset", "logs.npz", "--gradient-steps", "20", "--hidden", "8", "--batch-size", "16"])
    assert "20 gradient steps" in capsys.readouterr().out
    assert "--env ID" in refused(["evaluate", "runs/iql-logs-42"], capsys)
    assert "--env ID" in refused(["play", "runs/iql-logs-42"], capsys)
    main(["evaluate", "runs/iql-logs-42", "--env", "CartPole-v1", "--n-episodes", "2"])
    assert "Evaluation over 2 episodes" in capsys.readouterr().out


@pytest.mark.long
def test_seeds_that_learn_from_a_file_go_on_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Dataset.load("cartpole-random")[:100].save("logs.npz")
    small = ["--gradient-steps", "20", "--hidden", "8", "--batch-size", "16"]
    for _ in range(2):
        main(["train", "bc", "--dataset", "logs.npz", *small, "--seeds", "1", "--run-dir", "runs"])
        assert "They were evaluated nowhere." in capsys.readouterr().out
    assert Trainer.load("runs/bc/logs/42").spec.dataset == str(tmp_path / "logs.npz")
    where = ["--env", "CartPole-v1", "--n-eval-episodes", "1"]
    main(["train", "bc", "--dataset", "logs.npz", *small, *where, "--seeds", "1", "--run-dir", "others"])
    assert "| return |" in capsys.readouterr().out


@pytest.mark.long
def test_more_gradient_steps_are_not_made_on_data_after_steps_in_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    gym.register("Gone-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=20)
    small = ["--hidden", "8", "--batch-size", "16", "--learning-starts", "20", "--run-dir", "run", "--env", "Gone-v0"]
    command = ["train", "iql", "--dataset", "cartpole-random", *small]
    main([*command, "--gradient-steps", "20", "--total-timesteps", "60"])
    assert "Learned from" in capsys.readouterr().out
    main([*command, "--gradient-steps", "900", "--total-timesteps", "90", "--resume"])
    told = capsys.readouterr().out
    assert "Learned from" not in told
    assert "No more gradient steps are made on the data" in told
    gym.registry.pop("Gone-v0")
    estimate = ["evaluate", "run", "--dataset", "cartpole-random", "--gradient-steps", "1"]
    assert "'Gone-v0'" in refused(estimate, capsys)
    main([*estimate, "--env", "CartPole-v1", "--n-episodes", "1"])
    assert "Evaluation over 1 episode" in capsys.readouterr().out


def refused(args: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Return the one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == code
    out, err = capsys.readouterr()
    assert err.startswith("rlox: error: ")
    assert err.count("\n") == 1, err
    assert out == ""
    return err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        # Commands.
        (["trian"], ["'trian'", "Did you mean 'train'?"]),
        (["exprot", "nowhere", "policy.onnx"], ["'exprot'", "Did you mean 'export'?"]),
        (["dataset", "inof"], ["'inof'", "Did you mean 'info'?"]),
        (["--verison"], ["'--verison'", "Did you mean '--version'?"]),
        (["--imprt", "x", "list"], ["'--imprt'", "Did you mean '--import'?"]),
        # Algorithms.
        (["train", "arw"], ["'arw' is not an algorithm", "Did you mean 'awr'?"]),
        (["train", "AWRR"], ["'AWRR' is not an algorithm", "Did you mean 'awr'?"]),
        (["train", "ikl", "--dataset", "logs.npz"], ["Did you mean 'iql'?"]),
        (["train", "my_own"], ["'my_own' is not an algorithm", "Known: awac, awr", "--import MODULE"]),
        (["train", "--env", "CartPole-v1"], ["first argument", "'--env'"]),
        # Flags.
        ([*TRAIN, "--bata", "1"], ["'--bata' is not a flag of `rlox train awr`", "Did you mean '--beta'?"]),
        ([*TRAIN, "--bata=1"], ["'--bata' is not a flag", "Did you mean '--beta'?"]),
        ([*TRAIN, "--no-layer-nrm"], ["'--no-layer-nrm'", "Did you mean '--no-layer-norm'?"]),
        ([*TRAIN, "--xyzzy"], ["'--xyzzy'", "See `rlox train awr --help`"]),
        ([*TRAIN, "--net-arch", "64", "64"], ["'--net-arch'", "Did you mean '--hidden'?"]),
        ([*TRAIN, "--ent_coef", "0.1"], ["'--ent_coef'", "Did you mean '--entropy-coef'?"]),
        ([*TRAIN, "--lr", "0.1"], ["Did you mean '--learning-rate'?"]),
        (["evaluate", "nowhere", "--datset", "x.npz"], ["'--datset'", "'--dataset'"]),
        (["evaluate", "nowhere", "--n-episode", "3"], ["'--n-episode'", "'--n-episodes'"]),
        (["dataset", "create", "out.npz", "--n-step", "5"], ["'--n-step'", "'--n-steps'"]),
        (["dataset", "convert", "cartpole-medium", "out.npz", "--reward", "r"], ["'--reward'", "'--rewards'"]),
        # Values: missing, one too many, of a wrong type, not among the choices, given twice.
        ([*TRAIN, "--beta"], ["--beta needs a value: a number"]),
        ([*TRAIN, "--beta", "--seed", "1"], ["--beta needs a value"]),
        ([*TRAIN, "--hidden"], ["--hidden needs a value"]),
        (["--import"], ["--import needs a value: MODULE"]),
        ([*TRAIN, "awr"], ["'awr' is one argument too many for `rlox train awr`"]),
        ([*TRAIN, "--layer-norm", "true"], ["'true' is one argument too many", "--NAME or --no-NAME"]),
        (["evaluate"], ["`rlox evaluate` needs RUN"]),
        (["export", "nowhere"], ["`rlox export` needs FILE.onnx"]),
        (["dataset", "info"], ["`rlox dataset info` needs DATA"]),
        ([*TRAIN, "--beta", "hot"], ["--beta 'hot' has the wrong type", "a number"]),
        ([*TRAIN, "--beta=hot"], ["--beta 'hot' has the wrong type"]),
        ([*TRAIN, "--batch-size", "32.5"], ["--batch-size '32.5'", "a whole number"]),
        ([*TRAIN, "--hidden", "8", "x"], ["--hidden", "whole number"]),
        ([*TRAIN, "--max-grad-norm", "x"], ["--max-grad-norm 'x'", "a number or none"]),
        ([*TRAIN, "--layer-norm=maybe"], ["--layer-norm", "true or false"]),
        (["train", "awr", "--env", "CartPole-v1", "--total-timesteps", "many"], ["--total-timesteps 'many'"]),
        ([*TRAIN, "--optimizer", "sdg"], ["--optimizer 'sdg'", "'adam' or 'sgd'", "Did you mean 'sgd'?"]),
        ([*TRAIN, "--beta", "1", "--beta", "2"], ["--beta is given more than once"]),
        (["list", "preset"], ["'preset'", "Did you mean 'presets'?"]),
        # Values out of range, and what cannot be used.
        ([*TRAIN, "--gamma", "1.5"], ["gamma=1.5", "at most 1"]),
        ([*TRAIN, "--beta", "0"], ["beta=0.0", "greater than 0"]),
        ([*TRAIN, "--buffer-size", "100"], ["batch_size=256", "buffer_size=100"]),
        ([*TRAIN, "--hidden", "-3"], ["-3", "at least 1"]),
        ([*TRAIN, "--seed", "-1"], ["seed=-1"]),
        (["evaluate", "nowhere", "--seed", "-1"], ["seed=-1 must be a whole number of at least 0."]),
        (["play", "nowhere", "--seed", "-1"], ["seed=-1 must be a whole number of at least 0."]),
        (
            ["dataset", "create", "out.npz", "--env", "CartPole-v1", "--seed", "-1"],
            ["seed=-1 must be a whole number of at least 0."],
        ),
        ([*TRAIN, "--td-lambda", "0.9"], ["td_lambda=0.9", "rollout_steps=2048"]),
        (["train", "awr", "--env", "CartPole-v1", "--total-timesteps", "0"], ["total_timesteps=0", "at least 1"]),
        (["train", "awr", "--total-timesteps", "10"], ["--total-timesteps 10 needs --env"]),
        (["train", "iql", "--gradient-steps", "10"], ["--gradient-steps 10 needs --dataset"]),
        (["train", "iql", "--env", "CartPole-v1"], ["--total-timesteps N", "--gradient-steps N"]),
        (["train", "iql", "--dataset", "logs.npz", "--gradient-steps", "5"], ["There is no file 'logs.npz'"]),
        (["train", "iql", "--dataset", "hoper-medium"], ["'hoper-medium'", "Did you mean 'hopper-medium'?"]),
        (["train", "awr", "--env", "CartPol-v1", "--total-timesteps", "9"], ["could not be created", "`CartPole`"]),
        ([*TRAIN, "--preset", "papr"], ["'papr' is not a preset", "Did you mean 'paper'?"]),
        (["train", "awr", "--preset", "paper", "--dataset", "a.npz", "--gradient-steps", "5"], ["needs --env"]),
        (["train", "iql", "--preset", "paper", "--dataset", "a.npz"], ["'paper' is not a preset of iql"]),
        (["train", "awr", "--preset=paper", "--env=CartPol-v1"], ["'CartPol-v1'", "Did you mean: `CartPole`"]),
        (["evaluate", "nowhere"], ["no checkpoint at 'nowhere'"]),
        (["play", "nowhere"], ["no checkpoint at 'nowhere'"]),
        (["export", "nowhere", "policy.onnx"], ["no checkpoint at 'nowhere'"]),
        (["dataset", "info", "logs.npz"], ["There is no file 'logs.npz'"]),
        (
            ["dataset", "info", "cartpole-medium", "--env", "Pendulum-v1"],
            ["cartpole-medium", "must come from an environment"],
        ),
        (["dataset", "create", "out.npz"], ["--env ID", "--run RUN"]),
        # Flags that would have no effect.
        (["evaluate", "nowhere", "--gradient-steps", "5"], ["--gradient-steps 5 has no effect", "by --dataset"]),
        (["evaluate", "nowhere", "--dataset", "x", "--n-episodes", "5"], ["--n-episodes 5 has no effect", "by --env"]),
        (["dataset", "create", "x.npz", "--run", "x", "--replay", "--n-steps", "5"], ["--n-steps 5 has no effect"]),
        (
            ["dataset", "create", "x.npz", "--run", "x", "--replay", "--seed", "0"],
            ["--seed 0 has no effect", "--replay"],
        ),
        (
            ["dataset", "create", "x.npz", "--run", "x", "--replay", "--deterministic"],
            ["--deterministic has no effect"],
        ),
        (["dataset", "create", "x.npz", "--env", "x", "--deterministic"], ["--deterministic has no effect", "--run"]),
        (["dataset", "create", "out.npz", "--env", "CartPol-v1"], ["'CartPol-v1'", "Did you mean: `CartPole`"]),
        (["dataset", "create", "out.npz", "--run", "nowhere"], ["no checkpoint at 'nowhere'"]),
        (["dataset", "create", "out.txt", "--env", "CartPole-v1", "--n-steps", "5"], ["'out.txt'"]),
        (["dataset", "create", "out.npz", "--env", "CartPole-v1", "--n-steps", "0"], ["--n-steps 0", "at least 1"]),
        (["dataset", "convert", "logs.npz", "out.hdf5"], ["There is no file 'logs.npz'"]),
        (["dataset", "convert", "cartpole-medium", "out.csv"], ["'out.csv'"]),
        # What nobody means.
        (["evaluate", "nowhere", "--seed", "9" * 20], [f"seed={'9' * 20} is too large"]),
        (
            [*TRAIN, "--seeds", "3000000000"],
            ["seeds = 3000000000 would be as many runs", "at most 10,000", "--seed 3000000000"],
        ),
        (["report", "nowhere", "--output", "r.pdf"], ["output 'r.pdf' must end in .html"]),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_code_2(
    args: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    told = refused(args, capsys)
    assert all(word in told for word in words), told
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "args",
    [
        ["evaluate", "policy.safetensors", "--dataset", "cartpole-random"],
        ["resume", "policy.safetensors", "--total-timesteps", "400"],
        ["dataset", "create", "out.npz", "--run", "policy.safetensors", "--n-steps", "5"],
    ],
    ids=" ".join,
)
def test_a_file_of_a_policy_is_not_taken_for_a_run(
    run: Path, args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Policy.load(run).save("policy.safetensors")
    assert "'policy.safetensors' holds a policy only: name the folder of its run." in refused(args, capsys)


def test_an_existing_run_folder_is_refused_and_kept(run: Path, capsys: pytest.CaptureFixture[str]):
    before = (run / "checkpoint.safetensors").read_bytes()
    assert "already holds" in refused([*TRAIN, "--run-dir", str(run)], capsys)
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_a_video_needs_a_known_ending_and_its_extra(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert "must end in .mp4 or .gif" in refused(["play", str(run), "--video", "out.txt"], capsys)
    for missing, file in (("imageio_ffmpeg", "x.mp4"), ("imageio.v2", "x.gif"), ("pygame", "x.gif")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            told = refused(["play", str(run), "--video", str(run / file)], capsys)
        assert "rlox[video]" in told
        assert not (run / file).exists()


def test_a_video_that_cannot_be_written_is_one_line_and_leaves_nothing(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "taken.mp4").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    for name in ("taken.mp4", "file/x.mp4", "nowhere/x.gif", "/proc/x.mp4"):
        told = refused(["play", str(run), "--video", str(tmp_path / name)], capfd)
        assert f"'{tmp_path / name}' cannot be written" in told
    for name in ("x.mp4", "x.gif"):
        with pytest.raises(SystemExit) as stop, full():
            main(["play", str(run), "--video", str(tmp_path / name)])
        assert stop.value.code == 2
        # SDL has its say too, where there is no screen.
        (told,) = [line for line in capfd.readouterr().err.splitlines() if "XDG_RUNTIME_DIR" not in line]
        assert told.startswith(f"rlox: error: '{tmp_path / name}' cannot be written: ")
    assert sorted(tmp_path.iterdir()) == before


def test_exit_codes_of_what_happens_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def ends_with(error: BaseException) -> None:
        def train(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(Trainer, "train", train)

    monkeypatch.chdir(tmp_path)
    ends_with(DivergedError("The critic's loss is not finite."))
    assert "not finite" in refused(TRAIN, capsys, code=1)
    ends_with(OSError("No space left on device"))
    assert "No space left" in refused(TRAIN, capsys)
    ends_with(BrokenPipeError(32, "the simulator is gone"))
    assert "the simulator is gone" in refused(TRAIN, capsys)
    ends_with(KeyboardInterrupt())
    with pytest.raises(SystemExit) as stop:
        main(TRAIN)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "rlox: interrupted.\n"


def test_lists_name_algorithms_and_presets(capsys: pytest.CaptureFixture[str]):
    main(["list"])
    assert "awr" in capsys.readouterr().out
    main(["list", "presets"])
    presets = capsys.readouterr().out
    assert all(word in presets for word in ("paper", "HalfCheetah-v5", "other, discrete actions"))


@pytest.mark.parametrize("args", [["--help"], [], ["--version"], ["trian"]], ids=" ".join)
def test_help_is_quick(args: list[str], tmp_path: Path):
    check = "assert not {'jax', 'gymnasium', 'numpy'} & set(sys.modules)"
    code = f"import sys, rlox.cli\ntry: rlox.cli.main({args})\nexcept SystemExit as stop: print(stop)\n{check}"
    seconds: list[float] = []
    while len(seconds) < 3 and min(seconds, default=1.0) >= 1:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60, cwd=tmp_path)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1


def test_python_m_rlox_is_the_command_line(tmp_path: Path):
    command = [sys.executable, "-m", "rlox"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (version.returncode, version.stdout) == (0, f"{__version__}\n")
    wrong = subprocess.run([*command, "trian"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "rlox: error: 'trian' is not a command of rlox. Did you mean 'train'?\n"


def test_help_explains_every_command_and_flag(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "200")
    main(["--help"])
    text = capsys.readouterr().out
    for word in ("train", "evaluate", "play", "export", "dataset", "list", "--import", "--version", "completion"):
        assert word in text
    main(["train", "awr", "--help"])
    text = capsys.readouterr().out
    for words in ("--beta", "divides the advantage", "[default: 1]", "Settings of awr", "Networks", "Rounds"):
        assert words in text
    assert "--no-layer-norm" in text
    assert "--import" in text
    main(["dataset", "create", "--help"])
    assert "Least number of steps; 10000 by default." in capsys.readouterr().out


def test_every_flag_of_every_algorithm_has_a_help(capsys: pytest.CaptureFixture[str]):
    from rlox import ALGORITHMS
    from rlox.cli.options import setting_parameters

    for name, algorithm in ALGORITHMS.items():
        for parameter in setting_parameters(name, algorithm.config):
            assert parameter.annotation.__metadata__[0].help, parameter.name


@pytest.mark.long
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_flags(shell: Any):
    script = app.generate_completion(shell=shell)
    assert "evaluate" in script
    assert "total-timesteps" in script


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize(
    "command",
    ["train", "train awr", "resume", "evaluate", "play", "export", "dataset", "dataset info", "list", "list presets"],
)
def test_every_command_has_a_help(command: str, flag: str, capsys: pytest.CaptureFixture[str]):
    main([*command.split(), flag])
    out, err = capsys.readouterr()
    assert f"Usage: rlox {command.split()[0]}" in out
    assert err == ""
