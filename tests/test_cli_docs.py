"""The pages on the command line and on algorithms of one's own run as they stand, with smaller budgets."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from rlox import ALGORITHMS, Trainer
from rlox.cli import main
from rlox.cli import train as train_commands

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def _forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for module in ("my_envs", "softplus_awr"):
        sys.modules.pop(module, None)
    gym.registry.pop("HeavyCartPole-v0", None)
    ALGORITHMS.pop("softplus_awr", None)
    for name in ("softplus_awr", "SOFTPLUS_AWR"):
        if name in train_commands.app:
            del train_commands.app[name]


def run_page(name: str) -> list[str]:
    """Write the blocks that name a file, run the others in order, and return the commands."""
    commands = []
    for language, code in re.findall(r"```(\w+)\n(.*?)```", (DOCS / name).read_text(), flags=re.DOTALL):
        smaller = re.sub(r"(timesteps(?:=| = | )|--gradient-steps )[\d_]+", r"\g<1>120", code)
        if file := re.match(r"# (\S+\.(?:py|toml))\n", smaller):
            Path(file[1]).write_text(smaller)
        elif language == "python":
            exec(smaller, {})
        else:
            for line in smaller.splitlines():
                command = shlex.split(line, comments=True)
                main(command[1:])
                commands.append(" ".join(command))
    return commands


@pytest.mark.long
def test_the_page_on_the_command_line(capsys: pytest.CaptureFixture[str]):
    commands = run_page("cli.md")
    assert len(commands) == 9
    told = capsys.readouterr().out
    for words in ("Usage: rlox COMMAND", "Usage: rlox train awr", "Learned from cartpole-medium", "n_envs = 4"):
        assert words in told
    assert Trainer.load("runs/heavy").spec.env == "my_envs:HeavyCartPole-v0"


def test_every_command_is_on_the_page():
    page = (DOCS / "cli.md").read_text()
    main_commands = ("train", "evaluate", "play", "plot", "export", "dataset", "list")
    assert all(f"`rlox {command} " in page or f"`rlox {command}`" in page for command in main_commands)
    assert all(f"`{command} RUN...`" in page for command in ("report", "watch"))


def test_the_page_on_an_algorithm_of_one_s_own(capsys: pytest.CaptureFixture[str]):
    commands = run_page("own_algorithm.md")
    assert len(commands) == 3
    told = capsys.readouterr().out
    assert "Softplus AWR: weights that are linear in large advantages." in told
    assert "Evaluation over 5 episodes" in told
    assert "threshold" in ALGORITHMS["softplus_awr"].config.__dataclass_fields__
