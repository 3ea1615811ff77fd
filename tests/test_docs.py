"""README's code runs as it stands, with smaller budgets."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlox

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_what_the_page_on_data_says_of_files_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "offline.md").read_text().partition("## Where the data come from")[2]
    names: dict[str, object] = {}
    found = re.findall(r"```python\n(.*?)```", page.partition("## With an environment")[0], flags=re.DOTALL)
    for code in found:
        exec(code, names)
    assert len(found) == 4
    assert (tmp_path / "logs.hdf5").exists()


@pytest.mark.long
def test_what_the_page_on_data_says_of_several_seeds_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "offline.md").read_text()
    section = page.partition("## Several seeds")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    code = code.replace('"hidden": 64', '"hidden": 8, "batch_size": 16').replace("2_000", "20").replace("(5)", "(2)")
    names: dict[str, Any] = {}
    exec(code, names)
    assert sorted(names["losses"]) == [(beta, seed) for beta in (0.1, 0.3, 1.0) for seed in range(2)]
    assert (tmp_path / "runs" / "betas" / "beta=0.3" / "1" / "checkpoint.safetensors").exists()


def test_an_exported_policy_acts_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), flags=re.DOTALL)
    for code in found:
        exec(code, names)
    assert len(found) == 2
    np.testing.assert_allclose(names["action"], names["trainer"].predict([1.0, 0.0, 0.0]), atol=1e-5)


def narrower(page: str) -> str:
    """Make networks and minibatches small."""
    assert "--hidden 32" in page
    return page.replace("--hidden 32", "--hidden 8 --batch-size 16").replace(
        '{"hidden": 32}', '{"hidden": 8, "batch_size": 16}'
    )


@pytest.mark.long
def test_what_the_page_on_reliability_says_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rlox.cli import main

    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "reliability.md").read_text()
    (shell,) = re.findall(r"```bash\n(.*?)```", narrower(page), flags=re.DOTALL)
    commands = [line.partition("#")[0].split()[1:] for line in shell.splitlines()]
    assert [command[0] for command in commands] == ["train", "resume", "resume"]
    for command in commands:
        main(command)
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["trainer"].env_steps == 6000


@pytest.mark.long
def test_what_the_page_on_logging_says_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from rlox.cli import main

    monkeypatch.chdir(tmp_path)
    page = narrower((ROOT / "docs" / "logging.md").read_text())
    (shell,) = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    for line in shell.splitlines():
        main(line.partition("#")[0].split()[1:])
    assert len((tmp_path / "runs" / "logged" / "metrics.csv").read_text().splitlines()) == 4
    names: dict[str, Any] = {}
    found = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for code in found:
        exec(code, names)
    assert len(found) == 3
    assert (tmp_path / "best.safetensors").exists()
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["step-1000.mp4", "step-2000.mp4"]
    assert "awr on CartPole-v1 2000\nclosed\n" in capsys.readouterr().out


def smaller(code: str) -> str:
    """Lower the budgets: of new runs to little more than a round or the steps before learning, of others further."""
    code, n = re.subn(
        r"(total_timesteps=|--total-timesteps )([\d_]+)",
        lambda found: found[1] + ("1030" if int(found[2]) >= 20_000 else "30"),
        code,
    )
    code, m = re.subn(r"(gradient_steps=|--gradient-steps )[\d_]+", r"\g<1>20", code)
    assert n + m
    code = re.sub(r'("n_critic_updates"|"n_actor_updates"): \d+', r"\1: 20", code)
    few = 'config={"n_critic_updates": 20, "n_actor_updates": 20}'
    code = code.replace('Trainer("tuned", ', f'Trainer("tuned", {few}, ')
    return re.sub(r"n_episodes=\d+", "n_episodes=2", code)


@pytest.mark.long
def test_python_blocks_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks("python"):
        exec(smaller(code), names)
    action = names["action"]
    assert getattr(action, "shape", None) == (1,)


def test_the_command_is_installed():
    command = [Path(sys.executable).parent / "rlox", "--version"]
    assert subprocess.check_output(command, text=True, timeout=60) == f"{rlox.__version__}\n"


@pytest.mark.long
def test_shell_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rlox.cli import main

    monkeypatch.chdir(tmp_path)
    logs = next(block for block in blocks("python") if "np.savez" in block)
    exec(logs.partition("trainer =")[0], {})
    commands = next(block for block in blocks("bash") if "rlox train" in block)
    for line in smaller(commands).splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "rlox"
        main(arguments)
    assert (tmp_path / "cartpole.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"], ids=str
)
def test_links_lead_to_files(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_setting_is_documented():
    import dataclasses

    from rlox import ALGORITHMS, Algorithm

    for name, member in ALGORITHMS.items():
        # The settings that all have are explained once.
        pages = (name, "awr") if isinstance(member, Algorithm) else ("stable_baselines3",)
        text = "".join((ROOT / "docs" / "algorithms" / f"{page}.md").read_text() for page in pages)
        for field in dataclasses.fields(member.config):
            assert f"`{field.name}`" in text, f"{field.name} of {name}"


def test_every_metric_is_documented():
    from rlox import Trainer

    metrics = Trainer("awr", "Pendulum-v1", config={"hidden": 8, "batch_size": 16, "learning_starts": 20}).train(30)
    text = (ROOT / "docs" / "algorithms" / "awr.md").read_text()
    for name in metrics:
        assert "/" not in name or f"`{name}`" in text, name


def test_defaults_of_mpo_are_those_of_its_page():
    from rlox import ALGORITHMS

    text, config = (ROOT / "docs" / "algorithms" / "mpo.md").read_text(), ALGORITHMS["mpo"].config()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", text, flags=re.MULTILINE)
    told = [(re.findall(r"\w+", names), values.strip().split(", ")) for names, values in rows]
    assert len(told) > 30
    for names, values in told:
        assert [getattr(config, name) for name in names] == [ast.literal_eval(value) for value in values], names
