"""From a CSV file with names of its own to a policy and an interval of its value: in five lines, and by commands."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlox import Dataset, Trainer
from rlox.cli import main
from rlox.compare import run_jobs
from rlox.data.reading import Reading
from rlox.errors import ConfigError
from rlox.plan import Plan
from rlox.processes import Processes
from rlox.search.space import Range
from rlox.search.trials import Task
from rlox.spec import RunSpec

PAGE = (Path(__file__).parents[1] / "docs" / "offline.md").read_text()
SECTION = PAGE.partition("## From a CSV file")[2].partition("\n## ")[0]
SMALL = ["--hidden", "8", "--batch-size", "16"]
COLUMNS = ["--observations", "temp", "level", "--actions", "valve", "--episode", "batch_id"]


@pytest.fixture(autouse=True)
def _batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write sixty batches of ten steps, whose valve is best where the level is."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with open("batches.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["time", "temp", "level", "valve", "rewards", "batch_id"])
        for i in range(600):
            temp, level, valve = rng.uniform(-1, 1, 3)
            lines.writerow([f"2020-01-01 {i % 10:02}:00", temp, level, valve, 1 - abs(level - valve), f"b{i // 10}"])


@pytest.mark.long
def test_five_lines_come_to_a_policy_with_an_interval_of_its_value(capsys: pytest.CaptureFixture[str]):
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 5
    names: dict[str, Any] = {}
    exec(code.replace("20_000", "20").replace("[1])", "[1], gradient_steps=20)"), names)
    told = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(told["fqe/low"]) < float(told["fqe/value"]) < float(told["fqe/high"])
    assert names["trainer"].predict([0.0, 0.5]).shape == ()
    assert len(names["logs"].split(0.9)[0]) == 540


@pytest.mark.long
def test_the_commands_of_the_page_run_and_the_run_remembers_its_columns(capsys: pytest.CaptureFixture[str]):
    (shell,) = re.findall(r"```bash\n(.*?)```", SECTION, flags=re.DOTALL)
    for line in shell.splitlines():
        smaller = line.replace("20000", "30").split()[1:]
        smaller += SMALL if smaller[0] == "train" else ["--gradient-steps", "10"] if smaller[0] == "evaluate" else []
        main(smaller)
    told = capsys.readouterr().out
    assert "600 steps, 60 whole episodes" in told
    assert "fitted Q evaluation" in told
    spec = Trainer.load("runs/valve").spec
    assert spec.reading == Reading(observations=("temp", "level"), actions=("valve",), episode="batch_id")
    assert RunSpec.from_dict(spec.to_dict()) == spec
    main(["resume", "runs/valve", "--gradient-steps", "40"])
    assert Trainer.load("runs/valve").gradient_steps == 40
    again = ["train", "iql", "--dataset", "batches.csv", *SMALL, "--gradient-steps", "50", "--run-dir", "runs/valve"]
    with pytest.raises(SystemExit):
        main([*again, "--resume", *COLUMNS[:5]])
    assert "--resume: episode is 'batch_id' in 'runs/valve' and cannot become None" in capsys.readouterr().err
    main([*again, "--resume", *COLUMNS])
    assert Trainer.load("runs/valve").gradient_steps == 50


@pytest.mark.long
def test_bounds_of_actions_are_said_by_flags_and_by_a_file(capsys: pytest.CaptureFixture[str]):
    train = ["train", "bc", "--dataset", "batches.csv", *SMALL, "--gradient-steps", "5"]
    main([*train, *COLUMNS, "--action-low", "-2", "--action-high", "3", "--print-config"])
    Path("run.toml").write_text(capsys.readouterr().out)
    assert 'observations = [\n    "temp",\n    "level",\n]' in Path("run.toml").read_text()
    main(["train", "bc", "--config", "run.toml", "--run-dir", "run"])
    trainer = Trainer.load("run")
    assert trainer.spec.reading.action_low == (-2.0,)
    assert (float(trainer.action_space.low), float(trainer.action_space.high)) == (-2.0, 3.0)  # pyright: ignore
    capsys.readouterr()
    for more, message in [
        (["--action-low", "0"], "action_low and action_high are given together"),
        (["--action-low", "0", "--action-high", "0.5"], "which is outside Box(0.0, 0.5"),
        (["--n-actions", "3"], "must be whole numbers"),
    ]:
        with pytest.raises(SystemExit):
            main([*train, *COLUMNS, *more])
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["train", "bc", "--env", "CartPole-v1", "--total-timesteps", "5", "--episode", "batch_id"])
    assert "--episode batch_id has no effect without data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*train, *COLUMNS, "--env", "Pendulum-v1", "--action-low", "0", "--action-high", "1"])
    assert "--action-low 0.0 has no effect with an environment" in capsys.readouterr().err


def test_missing_columns_are_one_line_on_the_command_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["dataset", "info", "batches.csv"])
    error = capsys.readouterr().err
    assert "batches has no columns 'observations', 'actions' and 'terminals'. It has time, temp, level, valve" in error
    assert error.count("\n") == 1
    main(["dataset", "convert", "batches.csv", "b.npz", *COLUMNS, "--action-low", "-1", "--action-high", "1"])
    saved = Dataset.load("b.npz")
    assert (saved.n_episodes, saved.guesses) == (60, "")


def test_a_reading_of_before_is_none():
    spec = RunSpec.resolve("bc", dataset="batches.csv")
    values = spec.to_dict()
    del values["reading"]
    assert RunSpec.from_dict(values) == spec
    for torn in ({"reading": {"columns": 3}}, {"reading": 5}, {"reading": {"n_actions": "x"}}):
        with pytest.raises((ConfigError, ValueError)):
            RunSpec.from_dict({**values, **torn})


PENDULUM = ["--observations", "x", "y", "v", "--actions", "torque", "--episode", "trip"]


def pendulum_logs() -> None:
    """Write a random agent's trips with a pendulum, under names of their own."""
    data = Trainer("bc", "Pendulum-v1", config={"hidden": 8}).record(400, seed=0)
    obs, torque, rewards = (data.columns[name][:] for name in ("observations", "actions", "rewards"))
    with open("trips.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["x", "y", "v", "torque", "rewards", "trip"])
        lines.writerows([*obs[i], *torque[i], rewards[i], i // 200] for i in range(len(data)))


def test_a_plan_has_the_columns_of_its_data(tmp_path: Path):
    columns = {"observations": ["x", "y", "v"], "actions": "torque", "episode": "trip"}
    plan = Plan({"bc": {}, "two": {"algorithm": "bc", "observations": "x"}}, ["Pendulum-v1"], ["trips.csv"], [0])
    plan = plan._replace(shared={"gradient_steps": 5, **columns}, over={"episode": "day"})
    jobs = plan.jobs(tmp_path)
    assert [job.folder.relative_to(tmp_path).as_posix() for job in jobs] == ["bc/trips/0", "two/trips/0"]
    assert {job.spec.env for job in jobs} == {"Pendulum-v1"}, "it is where the data are evaluated"
    names = [job.spec.reading.observations for job in jobs]
    assert names == [("x", "y", "v"), ("x",)]
    assert {(job.spec.reading.actions, job.spec.reading.episode) for job in jobs} == {(("torque",), "day")}
    known = plan._replace(datasets=["cartpole-medium"], shared={"gradient_steps": 5, "total_timesteps": 5})
    assert len(known.jobs(tmp_path)) == 4, "bundled data know theirs, and the environment is a place of its own"
    run_folder = jobs[0].folder
    run_folder.mkdir(parents=True)
    (run_folder / "config.json").write_text(json.dumps({**jobs[0].spec.to_dict(), "reading": {"episode": "trip"}}))
    with pytest.raises(ConfigError, match="has a run with observations=None, not"):
        run_jobs(jobs[:1], tmp_path, engine=Processes([0]))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--env", "Pendulum-v1", "--total-timesteps", "9", "--episode", "trip"], "--episode trip has no effect"),
        (["--dataset", "trips.csv", "--gradient-steps", "9"], "'trips.csv' has no environment to evaluate in: name"),
        (["--dataset", "trip.csv", "--env", "Pendulum-v1", "--gradient-steps", "9"], "There is no file 'trip.csv'."),
        (
            ["--dataset", "batches.csv", "--env", "Pendulum-v1", "--gradient-steps", "9", *COLUMNS[:-1], "batch"],
            "batches has no column 'batch'. Did you mean 'batch_id'?",
        ),
        (["--dataset", "trips.csv", "--action-low", "0"], "'--action-low' is not a flag of `rlox compare`"),
        (["--dataset", "trips.csv", "--epsiode", "trip"], "Did you mean '--episode'?"),
    ],
)
def test_columns_without_effect_are_one_line(args: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["compare", "--algorithms", "bc,iql", *args])
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not Path("runs").exists(), "nothing was started"


def test_a_search_has_the_columns_of_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spec = RunSpec.resolve("bc", env="Pendulum-v1", dataset="trips.csv", reading=Reading(episode="trip"))
    task = Task(base=spec, space={"gamma": Range(0.9, 0.99)})
    assert task.spec({"gamma": 0.95}).reading == Reading(episode="trip")
    words = ["tune", "bc", "--dataset", "batches.csv", "--env", "Pendulum-v1", "--gradient-steps", "9"]
    with pytest.raises(SystemExit):
        main([*words, *COLUMNS[:-1], "batch", "--output", str(tmp_path / "out")])
    assert "batches has no column 'batch'. Did you mean 'batch_id'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["tune", "bc", "--env", "Pendulum-v1", "--total-timesteps", "9", "--episode", "trip"])
    assert "--episode trip has no effect without data" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_of_logs_under_names_of_their_own(capsys: pytest.CaptureFixture[str]):
    pendulum_logs()
    words = ["--dataset", "trips.csv", "--env", "Pendulum-v1", "--algorithms", "bc", "--seeds", "1"]
    words += ["--gradient-steps", "10", "--n-eval-episodes", "1", "--output", "out"]
    main(["compare", *words, *PENDULUM])
    assert "| bc" in capsys.readouterr().out
    assert Trainer.load("out/bc/trips/0").spec.reading.observations == ("x", "y", "v")
    with pytest.raises(SystemExit):
        main(["compare", *words, *PENDULUM[:-1], "day"])
    assert "has a run with episode='trip', not 'day'" in capsys.readouterr().err
