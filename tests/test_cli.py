"""The command line, as a person types it: in a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlox.cli import main

SMALL = ["--hidden", "16", "--batch-size", "32", "--learning-starts", "100", "--log-interval", "200"]


def rlox(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rlox", *args], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    args = ["train", "awr", "--env", "CartPole-v1", "--total-timesteps", "600", "--seed", "7", "--run-dir", "first"]
    result = rlox(*args, "--beta", "0.5", "--eval-interval", "300", "--n-eval-episodes", "2", *SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "Mean reward" in result.stdout
    assert "Evaluation over 2 episodes" in result.stdout
    assert "600/600 steps" in result.stderr
    return folder / "first"


def test_train_leaves_a_whole_run_folder(run: Path):
    config = json.loads((run / "config.json").read_text())
    assert config["algorithm"] == "awr"
    assert config["env"] == "CartPole-v1"
    assert config["seed"] == 7
    assert config["config"]["beta"] == 0.5
    assert config["config"]["hidden"] == 16
    assert {"rlox", "jax", "gymnasium", "python"} <= config["versions"].keys()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["env_steps"] == 600
    assert records[-1]["gradient_steps"] == 501
    assert {"actor/loss", "critic/loss", "weight/effective_sample_size", "eval/mean_reward"} <= records[-1].keys()
    assert (run / "checkpoint.safetensors").exists()
    assert list(run.glob("events.out.tfevents.*"))


def test_evaluate_prints_the_same_numbers_twice(run: Path):
    first, second = (rlox("evaluate", "first", "--n-episodes", "3", cwd=run.parent) for _ in range(2))
    assert first.returncode == 0
    assert "Evaluation over 3 episodes" in first.stdout
    assert first.stdout == second.stdout


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_play_writes_a_video(run: Path, name: str):
    result = rlox("play", "first", "--video", name, "--seed", "1", cwd=run.parent)
    assert result.returncode == 0, result.stderr
    assert "Episode 1: return" in result.stdout
    assert (run.parent / name).stat().st_size > 1000


def test_list_names_the_algorithms(tmp_path: Path):
    assert "awr" in rlox("list", cwd=tmp_path).stdout
    presets = rlox("list", "presets", cwd=tmp_path).stdout
    assert all(word in presets for word in ("paper", "HalfCheetah-v5", "other, discrete actions"))


TRAIN = ["train", "awr", "--env", "CartPole-v1", "--total-timesteps", "10"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], ["'trian'", "Did you mean 'train'?"]),
        (["train", "awrr"], ["'awrr' is not an algorithm", "Did you mean 'awr'?"]),
        (["train", "--env", "CartPole-v1"], ["first argument", "'--env'"]),
        (["train", "awr", "--total-timesteps", "10"], ["--total-timesteps 10 needs --env"]),
        (["train", "iql", "--gradient-steps", "10"], ["--gradient-steps 10 needs --dataset"]),
        (["train", "iql", "--env", "CartPole-v1"], ["--total-timesteps N", "--gradient-steps N"]),
        (["train", "iql", "--dataset", "logs.npz", "--gradient-steps", "5"], ["There is no file 'logs.npz'"]),
        (["train", "awr", "--preset", "paper", "--dataset", "a.npz", "--gradient-steps", "5"], ["needs --env"]),
        (["train", "iql", "--preset", "paper", "--dataset", "a.npz"], ["'paper' is not a preset of iql"]),
        (["train", "ikl", "--dataset", "logs.npz"], ["Did you mean 'iql'?"]),
        (["train", "iql", "--dataset", "hoper-medium"], ["'hoper-medium'", "Did you mean 'hopper-medium'?"]),
        (["evaluate", "nowhere", "--datset", "x.npz"], ["'--datset'", "'--dataset'"]),
        (["dataset", "inof"], ["'inof'", "Did you mean 'info'?"]),
        (["dataset", "info"], ["DATA"]),
        (["dataset", "info", "logs.npz"], ["There is no file 'logs.npz'"]),
        (
            ["dataset", "info", "cartpole-medium", "--env", "Pendulum-v1"],
            ["cartpole-medium", "The environment must be"],
        ),
        (["dataset", "create", "out.npz"], ["--env ID", "--run RUN"]),
        (["dataset", "create", "out.npz", "--env", "CartPol-v1"], ["'CartPol-v1'", "Did you mean: `CartPole`"]),
        (["dataset", "create", "out.npz", "--run", "nowhere"], ["no checkpoint at 'nowhere'"]),
        (["dataset", "create", "out.txt", "--env", "CartPole-v1", "--n-steps", "5"], ["'out.txt'"]),
        (["dataset", "create", "out.npz", "--env", "CartPole-v1", "--n-steps", "0"], ["--n-steps 0", "at least 1"]),
        (["dataset", "create", "out.npz", "--n-step", "5"], ["'--n-step'", "'--n-steps'"]),
        (["dataset", "convert", "logs.npz", "out.hdf5"], ["There is no file 'logs.npz'"]),
        (["dataset", "convert", "cartpole-medium", "out.csv"], ["'out.csv'"]),
        (["dataset", "convert", "cartpole-medium", "out.npz", "--reward", "r"], ["'--reward'", "'--rewards'"]),
        (["list", "dataset"], ["'dataset'", "Did you mean 'datasets'?"]),
        (
            ["train", "awr", "--env", "CartPol-v1", "--total-timesteps", "10"],
            ["'CartPol-v1'", "Did you mean: `CartPole`"],
        ),
        ([*TRAIN, "--bata", "1"], ["'--bata' is not a flag", "Did you mean '--beta'?"]),
        ([*TRAIN, "--beta", "hot"], ["--beta", "'hot'"]),
        ([*TRAIN, "--gamma", "1.5"], ["gamma=1.5", "at most 1"]),
        ([*TRAIN, "--beta", "0"], ["beta=0.0", "greater than 0"]),
        ([*TRAIN, "--buffer-size", "100"], ["batch_size=256", "buffer_size=100"]),
        ([*TRAIN, "--hidden", "-3"], ["hidden=-3", "at least 1"]),
        ([*TRAIN, "--seed", "-1"], ["seed=-1"]),
        (["train", "awr", "--env", "CartPole-v1", "--total-timesteps", "0"], ["total_timesteps=0", "at least 1"]),
        (["evaluate", "nowhere"], ["no checkpoint at 'nowhere'"]),
        (["evaluate"], ["RUN"]),
        (["evaluate", "nowhere", "--n-episode", "3"], ["'--n-episode'", "'--n-episodes'"]),
        (["play", "nowhere"], ["no checkpoint at 'nowhere'"]),
        (["exprot", "nowhere", "policy.onnx"], ["'exprot'", "Did you mean 'export'?"]),
        (["export", "nowhere"], ["FILE.onnx"]),
        (["export", "nowhere", "policy.onnx"], ["no checkpoint at 'nowhere'"]),
        (["list", "preset"], ["'preset'", "Did you mean 'presets'?"]),
        ([*TRAIN, "--preset", "papr"], ["'papr' is not a preset", "Did you mean 'paper'?"]),
        ([*TRAIN, "--preset=paper", "--env=CartPol-v1"], ["'CartPol-v1'", "Did you mean: `CartPole`"]),
        ([*TRAIN, "--optimizer", "adma"], ["--optimizer", "adma"]),
        ([*TRAIN, "--td-lambda", "0.9"], ["td_lambda=0.9", "rollout_steps=2048"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    args: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith("rlox: error: ")
    assert err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert out == ""
    assert os.environ.get("COLUMNS") != "2000"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_bad_input_in_a_process_of_its_own(tmp_path: Path):
    result = rlox(*TRAIN, "--gamma", "1.5", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "rlox: error: gamma=1.5 is out of range: it must be at least 0 and at most 1.\n"


def test_an_existing_run_folder_is_refused_and_kept(run: Path):
    before = (run / "checkpoint.safetensors").read_bytes()
    result = rlox(*TRAIN, "--run-dir", "first", cwd=run.parent)
    assert result.returncode == 2
    assert "'first' already holds" in result.stderr
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_a_video_needs_a_known_ending(run: Path):
    result = rlox("play", "first", "--video", "out.txt", cwd=run.parent)
    assert result.returncode == 2
    assert "must end in .mp4 or .gif" in result.stderr


@pytest.mark.parametrize("args", [["--help"], []])
def test_help_is_quick(args: list[str], tmp_path: Path):
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        result = rlox(*args, cwd=tmp_path)
        seconds.append(time.perf_counter() - started)
        assert result.returncode == 0
        assert "train ALGORITHM" in result.stdout
    assert min(seconds) < 0.5


def test_help_of_train_explains_every_setting(tmp_path: Path):
    text = rlox("train", "awr", "--help", cwd=tmp_path).stdout
    assert "--beta" in text
    assert "divides the advantage" in text
    assert "--max-advantage" in text


def test_flags_override_the_preset(tmp_path: Path):
    args = ["--preset", "paper", "--beta", "2", "--n-envs", "2", "--run-dir", "run", "--n-eval-episodes", "1"]
    result = rlox(*TRAIN, *args, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert described["preset"] == "paper"
    assert (described["config"]["beta"], described["config"]["td_lambda"]) == (2.0, 0.95)


def test_a_policy_learns_from_a_file(tmp_path: Path):
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "observations": rng.normal(size=(60, 4)), "actions": rng.integers(2, size=60), "rewards": np.ones(60),
        "terminals": np.arange(60) % 20 == 19,
    }  # fmt: skip
    np.savez(tmp_path / "logs.npz", **columns)
    learn = ["train", "iql", "--dataset", "logs.npz", "--gradient-steps", "20", "--hidden", "8", "--batch-size", "16"]
    result = rlox(*learn, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "20 gradient steps" in result.stdout
    nowhere = rlox("evaluate", "runs/iql-logs-42", cwd=tmp_path)
    assert (nowhere.returncode, nowhere.stderr.count("--env ID")) == (2, 1)
    evaluation = rlox("evaluate", "runs/iql-logs-42", "--env", "CartPole-v1", "--n-episodes", "2", cwd=tmp_path)
    assert "Evaluation over 2 episodes" in evaluation.stdout, evaluation.stderr


def test_help_imports_no_jax():
    code = "import sys, rlox.cli; rlox.cli.main(['--help']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
