"""The tutorials run as they stand, block after block, with smaller budgets."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlox import ALGORITHMS
from rlox.cli import main
from rlox.cli import train as train_commands

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"


@pytest.fixture(autouse=True)
def _forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("ranked", None)
    gym.registry.pop("Kiln-v0", None)
    ALGORITHMS.pop("ranked", None)
    for name in ("ranked", "RANKED"):
        if name in train_commands.app:
            del train_commands.app[name]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of each block that is run."""
    found = re.findall(r"```(\w+)\n(.*?)```", (TUTORIALS / page).read_text(), flags=re.DOTALL)
    return [(language, text) for language, text in found if language in ("python", "bash", "toml")]


def run(page: str, smaller: dict[str, str]) -> dict[str, Any]:
    """Run a page's blocks in one namespace, its numbers replaced, and return the names that it leaves."""
    names: dict[str, Any] = {}
    text = "\0".join(f"{language}\n{code}" for language, code in blocks(page))
    for number, less in smaller.items():
        assert number in text, f"{page} has no {number}"
        text = text.replace(number, less)
    for block in text.split("\0"):
        language, _, code = block.partition("\n")
        if file := re.match(r"# (\S+\.(?:py|toml))\n", code):
            Path(file[1]).write_text(code)
        elif language == "python":
            exec(code, names)
        else:
            for line in code.splitlines():
                main(shlex.split(line, comments=True)[1:])
    return names


@pytest.mark.long
def test_a_policy_for_an_environment_of_one_s_own(tmp_path: Path):
    less = {
        "20_000": "2_200",
        "2_000": "1_100",
        "4_000": "1_100",
        ": 100,": ": 4,",
        ": 300,": ": 4,",
        "n_episodes=20": "n_episodes=2",
    }
    names = run("environment.md", less)
    assert (tmp_path / "kiln.png").stat().st_size > 5_000
    assert (tmp_path / "best.safetensors").exists()
    assert names["trainer"].env_steps == 2_200 + 1_104, "it went on in the run, by whole steps of 8 environments"
    assert names["policy"].predict([[0.0, 0.0]] * 3).shape == (3, 1)


def test_the_rules_by_hand_return_what_the_page_says():
    names: dict[str, Any] = {}
    for _, code in blocks("environment.md")[:2]:
        exec(code, names)
    page = (TUTORIALS / "environment.md").read_text()
    for rule, value in names["by_hand"].items():
        assert f"| {rule} | {value:.1f} |" in page


@pytest.mark.long
def test_a_policy_from_logs(tmp_path: Path):
    less = {"n_batches=300": "n_batches=15", "5_000": "20", "4_000": "20", "[1])": "[1], gradient_steps=20)"}
    names = run("logs.md", less)
    assert names["dataset"].n_episodes == 12
    assert names["held_out"].n_episodes == 3
    assert names["found"]["fqe/low"] < names["found"]["fqe/value"] < names["found"]["fqe/high"]
    assert (tmp_path / "kiln.onnx").exists()
    import onnxruntime

    obs = np.array([[-0.5, 0.1]], np.float32)
    action: Any = onnxruntime.InferenceSession(tmp_path / "kiln.onnx").run(["action"], {"obs": obs})[0]
    np.testing.assert_allclose(action, names["trainer"].predict(obs), atol=1e-5)


def test_a_policy_from_logs_and_its_interval_are_five_lines():
    (code,) = (code for language, code in blocks("logs.md") if language == "python" and "[1])" in code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    assert code.startswith("from rlox import"), "nothing else is needed"


@pytest.mark.slow
def test_an_experiment_over_seeds(tmp_path: Path):
    less = {
        "--seeds 5": "--seeds 1 --n-eval-episodes 1",
        "seeds = 5": "seeds = 1\nn_eval_episodes = 1",
        "2000": "10",
        "2_000": "10",
    }
    names = run("research.md", less)
    assert (tmp_path / "three.png").stat().st_size > 5_000
    assert names["last"].keys() == {"iql", "sharper", "mean"}
    assert (tmp_path / "ablation.html").exists()
    assert (tmp_path / "runs" / "ranked" / "ranked" / "cartpole-medium-replay" / "0" / "config.json").exists()


def test_selecting_all_samples_is_cloning():
    """The page says to test this of its algorithm."""
    import jax.numpy as jnp

    Path("ranked.py").write_text(next(code for _, code in blocks("research.md") if code.startswith("# ranked.py")))
    ranked = importlib.import_module("ranked")
    advantage = jnp.array([3.0, -1.0, 0.5, 2.0])
    assert ranked.weight(ranked.RankedConfig(top=1.0), advantage)[0].tolist() == [1.0] * 4
    assert ranked.weight(ranked.RankedConfig(top=0.5), advantage)[0].tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.slow
def test_five_seeds_of_three_algorithms_are_a_picture_in_two_lines(tmp_path: Path):
    (lines,) = (code.splitlines() for language, code in blocks("research.md")[:1] if language == "bash")
    assert len(lines) <= 5
    shell = [sys.executable, "-m", *shlex.split(lines[0])]
    told = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    main(shlex.split(lines[1])[1:])
    table = [line for line in told.splitlines() if line.startswith("|")]
    assert [line.split("|")[2].strip() for line in table[-3:]] == ["bc", "iql", "awr"]
    assert len(list((tmp_path / "runs" / "three").glob("*/*/*/config.json"))) == 15
    assert (tmp_path / "three.png").stat().st_size > 10_000


@pytest.mark.long
def test_a_move_from_stable_baselines3_is_five_lines():
    theirs, ours = (code for language, code in blocks("from_other_libraries.md")[:2])
    short = {"50_000": "100", "seed=0": "seed=0, n_steps=64, n_epochs=1"}
    small = {"50_000": "1_100", 'preset="tuned"': 'config={"hidden": 8, "batch_size": 16}'}
    for code, smaller in ((theirs, short), (ours, small)):
        assert len([line for line in code.splitlines() if line.strip()]) <= 5
        names: dict[str, Any] = {}
        for number, less in smaller.items():
            assert number in code
            code = code.replace(number, less)
        exec(code, names)
        assert names["action"] in (0, 1)
    assert Path("awr_cartpole").is_dir()


@pytest.mark.long
def test_calls_of_d3rlpy_and_cleanrl():
    found = blocks("from_other_libraries.md")[2:]
    assert [language for language, _ in found] == ["python", "bash"]
    names: dict[str, Any] = {}
    exec(found[0][1].replace("10_000", "10"), names)
    assert names["actions"].shape == (1000,)
    main(shlex.split(found[1][1].replace("50000", "1100 --hidden 8 --batch-size 16"))[1:])
    assert Path("runs/cartpole/config.json").exists()
