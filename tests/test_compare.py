"""Comparisons: plans, processes that are stopped and go on, and the table."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlox import processes
from rlox.algorithms import ALGORITHMS
from rlox.cli import main
from rlox.compare import Failure, Outcome, check_same, run_jobs
from rlox.errors import ConfigError, RunInUseError
from rlox.launch import ANY_CORE, Launch
from rlox.plan import Plan, budget_of, named_settings, plan_of, seeds_of
from rlox.processes import Processes, is_finished, last_record, wait_for_writer
from rlox.runs.history import COMPARISON, Run, alike_returns, find_runs, group_runs, read_runs, write_runs
from rlox.runs.lock import claim, claimed, release
from rlox.runs.logs import FINISHED
from rlox.runs.progress import Board
from rlox.runs.report import render
from rlox.runs.table import as_markdown, compare_groups, markdown, number, overall
from written import evaluated, write_run

TINY = {"hidden": 8, "batch_size": 16, "learning_starts": 20, "total_timesteps": 60, "n_eval_episodes": 1}
PLAN = Plan({"bc": {}, "small": {"algorithm": "awr", "beta": 2.0}}, ["CartPole-v1"], seeds=[3], shared=TINY)


def fake(label: str, returns: list[float], *, place: str = "A", seed: int = 0, every: int = 10) -> Run:
    """A run with these evaluations, 2 s apart."""
    records = [
        {
            "time": 100.0 + 2 * i,
            "env_steps": every * i,
            "gradient_steps": 0,
            "eval/mean_reward": x,
            "time/seconds": 2 * i,
        }
        for i, x in enumerate(returns, start=1)
    ]
    return Run(Path(label) / place / str(seed), {"algorithm": "awr", "env": place, "seed": seed}, records, label)


# Plans


def test_a_plan_is_every_setting_at_every_place_with_every_seed(tmp_path: Path):
    plan = plan_of(
        {
            "env": ["CartPole-v1", "Pendulum-v1"],
            "seeds": 2,
            "total_timesteps": 4_000,
            "hidden": 16,
            "settings": {
                "awr": {},
                "wide": {"algorithm": "AWR", "hidden": 32},
                "tuned": {"algorithm": "awr", "preset": "tuned"},
            },
            "on": {"Pendulum-v1": {"gamma": 0.9, "total_timesteps": 8_000}},
        },
        "plan.toml",
    )
    jobs = plan.jobs(tmp_path)
    assert len(jobs) == 3 * 2 * 2
    assert [job.spec.seed for job in jobs] == [0] * 6 + [1] * 6
    found = {job.folder.relative_to(tmp_path).as_posix(): job.spec for job in jobs}
    assert found["awr/CartPole-v1/1"].config.hidden == 16
    assert found["wide/CartPole-v1/0"].config.hidden == 32
    assert (found["awr/CartPole-v1/0"].config.gamma, found["awr/Pendulum-v1/0"].config.gamma) == (0.99, 0.9)
    assert dataclasses.asdict(found["tuned/CartPole-v1/0"].config)["rollout_steps"] == 1024
    assert found["tuned/CartPole-v1/0"].config.hidden == 16, "what is said outweighs a preset"
    budget = found["wide/Pendulum-v1/1"].budget
    assert (budget.total_timesteps, budget.eval_interval) == (8_000, 400)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"settings": {"awr": {}}, "total_timesteps": 9}, "Say where to compare"),
        ({"env": "CartPole-v1", "settings": {"awr": {}}}, "Say how long 'awr' learns: total_timesteps"),
        ({"env": "CartPole-v1", "total_timesteps": 9}, "compares nothing"),
        (
            {"env": "CartPole-v1", "settings": {"awr": {"bata": 1}}, "total_timesteps": 9},
            "'bata' is not a setting of awr ('awr') or part of a budget. Did you mean 'beta'?",
        ),
        ({"env": "CartPole-v1", "settings": {"arw": {}}, "total_timesteps": 9}, "Did you mean 'awr'?"),
        (
            {"env": "CartPole-v1", "settings": {"a/b": {"algorithm": "awr"}}, "total_timesteps": 9},
            "'a/b' cannot name settings",
        ),
        (
            {"env": "CartPole-v1", "settings": {"awr": {}}, "on": {"Pendulum-v1": {}}, "total_timesteps": 9},
            "'Pendulum-v1' is not among",
        ),
        ({"env": 3, "settings": {"awr": {}}}, "env = 3 must be a name"),
        (
            {"env": "CartPole-v1", "settings": {"awr": {"env": "Pendulum-v1"}}, "total_timesteps": 9},
            "'awr' names an env of its own",
        ),
        (
            {"dataset": "d.npz", "settings": {"bc": {}}, "on": {"d.npz": {"env": "os:Evil-v0"}}, "gradient_steps": 9},
            "'os:Evil-v0' names a module, and a file never imports one",
        ),
        (
            {"dataset": "d.npz", "settings": {"bc": {}}, "gradient_steps": 9},
            "'d.npz' has no environment to evaluate in",
        ),
        (
            {"dataset": ["a/d.npz", "b/d.npz"], "settings": {"bc": {}}, "gradient_steps": 9},
            "Two of the data are called 'd'",
        ),
        ({"env": "CartPole-v1", "settings": {"awr": {}}, "setings": {}}, "[setings] is not a table"),
        ({"env": "CartPole-v1", "settings": {"awr": 3}}, "'settings' must be tables"),
        ({"env": "CartPole-v1", "settings": {"awr": {}}, "seeds": 0}, "seeds = 0 must be"),
        ({"env": "CartPole-v1", "settings": {"awr": {}}, "seeds": [1, -1]}, "seeds = [1, -1] must be"),
        (
            {"env": "CartPole-v1", "settings": {"awr": {}}, "seeds": 2**62},
            "would be as many runs, but at most 10,000 are made",
        ),
        (
            {"env": "CartPole-v1", "settings": {"awr": {"preset": "tunde"}}, "total_timesteps": 9},
            "Did you mean 'tuned'?",
        ),
        (
            {"env": "CartPole-v1", "settings": {"awr": {}}, "total_timesteps": "9"},
            "total_timesteps='9' must be a whole number",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(tmp_path: Path, values: dict[str, Any], told: str):
    with pytest.raises(ConfigError) as error:
        plan_of(values, "plan.toml").jobs(tmp_path)
    assert told in str(error.value)


def test_algorithms_are_named_with_their_presets():
    assert named_settings(["AWR:tuned", " iql"]) == {
        "awr-tuned": {"algorithm": "awr", "preset": "tuned"},
        "iql": {"algorithm": "iql", "preset": None},
    }
    assert seeds_of([4, 2, 4]) == [4, 2]


def test_data_are_compared_by_gradient_steps(tmp_path: Path):
    plan = Plan({"bc": {}}, (), ["cartpole-medium"], [0], {"gradient_steps": 40})
    (job,) = plan.jobs(tmp_path)
    assert (job.spec.env, job.spec.dataset) == ("CartPole-v1", "cartpole-medium")
    assert (job.spec.budget.gradient_steps, job.spec.budget.total_timesteps, job.spec.budget.eval_interval) == (
        40,
        None,
        2,
    )


@pytest.mark.parametrize(("gradient_steps", "total_timesteps"), [(200, 4000), (4000, 200)])
def test_evaluations_are_as_many_as_the_longer_part_of_a_run_needs(
    tmp_path: Path, gradient_steps: int, total_timesteps: int
):
    budget = {"gradient_steps": gradient_steps, "total_timesteps": total_timesteps}
    (job,) = Plan({"iql": {}}, (), ["cartpole-medium"], [0], budget).jobs(tmp_path)
    assert job.spec.budget.eval_interval == 200


# Processes


@pytest.mark.long
def test_what_is_missing_runs_and_what_is_there_is_left(tmp_path: Path):
    jobs = PLAN.jobs(tmp_path)
    outcome = run_jobs(jobs[:1], tmp_path, engine=Processes([0]))
    assert (outcome.finished, outcome.failures, outcome.stopped_by) == (jobs[:1], [], None)
    assert 0 < outcome.busy <= 1.1
    first = (jobs[0].folder / "metrics.jsonl").read_bytes()
    outcome = run_jobs(jobs, tmp_path, engine=Processes([0]))
    assert outcome.finished == jobs
    assert (jobs[0].folder / "metrics.jsonl").read_bytes() == first
    assert all(is_finished(job) for job in jobs)
    groups = group_runs(find_runs([tmp_path]))
    assert {place: list(own) for place, own in groups.items()} == {"CartPole-v1": ["bc", "small"]}
    assert groups["CartPole-v1"]["small"][0].spec["config"]["beta"] == 2.0
    longer = PLAN._replace(shared={**TINY, "total_timesteps": 90}).jobs(tmp_path)
    assert run_jobs(longer[:1], tmp_path, engine=Processes([0])).finished == longer[:1]
    record = last_record(jobs[0].folder)
    assert record is not None
    assert record["env_steps"] == 90


@pytest.mark.parametrize(("other", "told"), [({"gamma": 0.5}, "gamma=0.99, not 0.5"),
                                             ({"n_eval_episodes": 2}, "n_eval_episodes=1, not 2")])  # fmt: skip
def test_a_run_that_is_there_with_other_settings_is_refused(tmp_path: Path, other: dict[str, Any], told: str):
    (job, _) = PLAN.jobs(tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(job.spec.to_dict()))
    check_same([job])
    check_same(PLAN._replace(shared={**TINY, "total_timesteps": 90, "eval_interval": 30}).jobs(tmp_path))
    with pytest.raises(ConfigError, match=f"has a run with {told}: give the comparison another folder"):
        run_jobs(PLAN._replace(shared=TINY | other).jobs(tmp_path), tmp_path, engine=Processes([0]))


@pytest.mark.parametrize(("env_steps", "refused"), [(0, False), (40, True)])
def test_a_run_learns_from_data_no_more_once_it_is_in_its_environment(tmp_path: Path, env_steps: int, refused: bool):
    data = {"algorithm": "iql", "gradient_steps": 100, "total_timesteps": 60}
    plan = Plan({"iql": data}, [], ["cartpole-random"], seeds=[3], shared={"hidden": 8})
    (job,) = plan.jobs(tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(job.spec.to_dict()))
    (job.folder / "metrics.jsonl").write_text(json.dumps({"env_steps": env_steps, "gradient_steps": 100}) + "\n")
    check_same(plan._replace(settings={"iql": data | {"total_timesteps": 90}}).jobs(tmp_path))
    longer = plan._replace(settings={"iql": data | {"gradient_steps": 900}}).jobs(tmp_path)
    with pytest.raises(ConfigError, match="gradient_steps=100, not 900") if refused else contextlib.nullcontext():
        check_same(longer)


def test_a_run_whose_step_size_falls_to_its_end_keeps_its_end(tmp_path: Path):
    plan = Plan({"ppo": {"learning_rate_schedule": "linear"}}, ["CartPole-v1"], seeds=[3],
                shared={"total_timesteps": 60})  # fmt: skip
    (job,) = plan.jobs(tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(job.spec.to_dict()))
    check_same([job])
    with pytest.raises(ConfigError, match="total_timesteps=60, not 90"):
        check_same(plan._replace(shared={"total_timesteps": 90}).jobs(tmp_path))


def test_runs_without_a_return_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for seed in range(3):
        write_run(tmp_path / f"{seed}", evaluated([3.0, 5.0]) if seed else [], seed=seed)
    main(["compare", str(tmp_path)])
    told = capsys.readouterr().err
    assert f"CartPole-v1: 1 of 3 runs have no return, and are left out, such as '{tmp_path / '0'}'." in told


@pytest.mark.parametrize("given", [{}, {"total_timesteps": None}])
def test_no_number_of_steps_is_asked_for(given: dict[str, Any]):
    with pytest.raises(ConfigError, match="Say how long 'awr' learns: total_timesteps"):
        budget_of("awr", None, given)


def test_a_list_is_no_preset(tmp_path: Path):
    shared = {"total_timesteps": 60, "preset": ["paper", "tuned"]}
    with pytest.raises(ConfigError, match=r"preset=\['paper', 'tuned'\] must be the name of one"):
        Plan({"awr": {}}, ["CartPole-v1"], seeds=[3], shared=shared).jobs(tmp_path)


def test_a_refused_comparison_leaves_the_order_of_the_one_that_is_there(tmp_path: Path):
    (job, _) = PLAN.jobs(tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(job.spec.to_dict()))
    (tmp_path / COMPARISON).write_text("of before")
    with pytest.raises(ConfigError, match="has a run with gamma"):
        run_jobs(PLAN._replace(shared=TINY | {"gamma": 0.5}).jobs(tmp_path), tmp_path, engine=Processes([0]))
    assert (tmp_path / COMPARISON).read_text() == "of before"


def test_a_comparison_that_goes_on_elsewhere_is_left_alone(tmp_path: Path):
    with (
        claimed(tmp_path),
        pytest.raises(RunInUseError, match="wait until it ends, or name another output"),
    ):
        run_jobs(PLAN.jobs(tmp_path), tmp_path, engine=Processes([0]))
    assert not list(tmp_path.glob("*/*/*"))


def test_a_label_whose_first_run_failed_keeps_its_place(tmp_path: Path):
    jobs = PLAN._replace(seeds=[0, 1]).jobs(tmp_path)
    outcome = Outcome(jobs, jobs[1:], [Failure(jobs[0], "it diverged")], None, 1.0)
    assert [folder.parts[-3] for folder in outcome.folders] == ["bc", "small", "small"]
    assert [folder.name for folder in outcome.folders] == ["1", "0", "1"]


def test_the_shorter_of_two_parts_is_evaluated_too():
    assert budget_of("iql", "cartpole-medium", {"gradient_steps": 500_000, "total_timesteps": 9}).eval_interval == 9


def start_instead(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """Let launches start a process that waits to be ended; returns the cores that they are given."""
    cores: list[int | str] = []

    def start(_: Launch, core: int | str = ANY_CORE) -> subprocess.Popen[Any]:
        cores.append(core)
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    monkeypatch.setattr(Launch, "start", start)
    return cores


def test_a_finished_run_with_more_to_do_is_not_finished_until_it_ends_well_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (job, _), _ = PLAN.jobs(tmp_path), start_instead(monkeypatch)
    job.folder.mkdir(parents=True)
    job.folder.with_suffix(FINISHED).touch()
    with Processes([0]) as engine:
        engine.start(job)
        # All its steps; what is left is the evaluation.
        (job.folder / "metrics.jsonl").write_text('{"env_steps": 60, "gradient_steps": 60}\n')
    assert not is_finished(job)


def test_a_run_with_collectors_may_use_every_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = Plan({"bc": {}, "awr": {"n_workers": 2}}, ["CartPole-v1"], seeds=[3], shared=TINY)
    cores = start_instead(monkeypatch)
    with Processes([5, 6]) as engine:
        for job in plan.jobs(tmp_path):
            engine.start(job)
    assert cores == [5, ANY_CORE]


@pytest.mark.parametrize(("cores", "n_jobs", "busy"), [([0, 1] * 4, 8, 1.0), ([0, 1] * 4, 1, 2.0), ([0, 1], 8, 1.0)])
def test_cores_that_runs_share_are_counted_once(
    cores: list[int], n_jobs: int, busy: float, monkeypatch: pytest.MonkeyPatch
):
    now = [100.0]
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(processes, "_seconds_of_children", lambda: 2 * now[0])
    engine = Processes(cores)
    now[0] += 10.0
    assert engine.busy(n_jobs) == busy


def test_the_lines_of_a_comparison_are_in_its_order(tmp_path: Path):
    names = [f"{label}/CartPole-v1/0" for label in ("small", "bc", "awr")]
    (tmp_path / "comparison.json").write_text(json.dumps({"runs": names[:2]}))
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text('{"algorithm": "bc", "env": "CartPole-v1"}')
        (tmp_path / name / "metrics.jsonl").touch()
    assert list(group_runs(find_runs([tmp_path]))["CartPole-v1"]) == ["small", "bc", "awr"]


@pytest.mark.long
def test_a_run_that_fails_leaves_the_others_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    plan = Plan({"iql": {}, "bc": {}}, ["CartPole-v1"], seeds=[0], shared=TINY | {"learning_rate": 1e30})
    outcome = run_jobs(plan.jobs(tmp_path), tmp_path, engine=Processes([0]), progress=True)
    assert outcome.failures[0].job.label == "iql"
    assert not outcome.finished or outcome.finished[0].label == "bc"
    assert "Training diverged" in outcome.failures[0].why
    told = capfd.readouterr().err
    assert "1/2 iql CartPole-v1 0: Training diverged" in told


# Whoever starts a comparison may have signals ignored: its runs end all the same.
COMPARE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from rlox.cli import main
main(sys.argv[1:])
"""


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    plan = folder / "plan.toml"
    plan.write_text(
        'env = "CartPole-v1"\nseeds = 1\ntotal_timesteps = 100_000\neval_interval = 50_000\nhidden = 8\n'
        "batch_size = 16\n"
        "checkpoint_interval = 500\nlog_interval = 100\n[settings.bc]\n[settings.awr]\n"
    )
    command = [sys.executable, "-c", COMPARE, "compare", "--config", str(plan), "--output", str(folder / "out"), *more]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_steps(folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while (last_record(folder) or {"env_steps": 0})["env_steps"] < steps:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
def test_ctrl_c_ends_all_runs_with_a_checkpoint_each(tmp_path: Path):
    process = start(tmp_path)
    runs = [tmp_path / "out" / label / "CartPole-v1" / "0" for label in ("bc", "awr")][: len(os.sched_getaffinity(0))]
    for run in runs:
        wait_for_steps(run, 300)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Stopped: 0 of 2 runs are finished. The same command goes on with the rest." in error
    for run in runs:
        assert "Stopped at step" in run.with_suffix(".log").read_text()
        assert (run / "checkpoint.safetensors").exists()


@pytest.mark.long
def test_runs_end_with_the_process_that_started_them(tmp_path: Path):
    process = start(tmp_path, "--processes", "1")
    run = tmp_path / "out" / "bc" / "CartPole-v1" / "0"
    wait_for_steps(run, 300)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while "Stopped at step" not in run.with_suffix(".log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_waits_for_another_that_still_saves_in_its_folder(tmp_path: Path):
    wait_for_writer(tmp_path)
    assert not list(tmp_path.iterdir())
    lock = claim(tmp_path)
    began = time.monotonic()
    threading.Timer(0.5, release, [lock]).start()
    wait_for_writer(tmp_path)
    assert time.monotonic() - began > 0.4
    assert not lock.is_locked


def test_runs_that_end_together_are_counted_one_by_one(capsys: pytest.CaptureFixture[str]):
    with Board(4, True) as board:
        board.update(1, 0, {})
        board.ended("b", None)
        board.ended("c", "it failed")
        board.update(2, 1, {})
        board.ended("d", None)
    assert capsys.readouterr().err.splitlines() == ["2/4 b: finished", "3/4 c: it failed", "4/4 d: finished"]


def test_off_a_terminal_a_line_a_minute_says_how_far_runs_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Board(4, True) as board:
        for now in range(0, 150, 10):
            board.update(1, 0, {"a": (now / 240, "return 3.5"), "b": (0.0, "starting")})
    assert capsys.readouterr().err.splitlines() == [
        "1/4 runs | 11:00 left | a 25% return 3.5 | b 0% starting",
        "1/4 runs | 10:00 left | a 50% return 3.5 | b 0% starting",
    ]
    with Board(4, False) as board:
        now += 1000
        board.update(1, 0, {})
    assert not capsys.readouterr().err


# The table


def test_lines_are_compared_where_all_runs_have_been():
    runs = [fake("a", [1, 2, 3, 9]), fake("a", [3, 4, 5], seed=1), fake("b", [0, 4, 6, 100, 100])]
    first, second = compare_groups(group_runs(runs), {"A": 3.5})
    assert (first.steps, first.n_runs, first.score.value) == (30, 2, 4.0)
    assert (second.steps, second.score.value) == (30, 6.0)
    assert np.isnan(second.score.low)
    assert first.better is None
    assert second.better is not None
    assert second.better.value == 1.0
    # One reached it at 40 steps and 8 s, the other at 20 and 4.
    assert first.reached is not None
    assert first.reached == (30, 6)
    assert first.n_reached == 2
    assert first.seconds == 6


def test_a_run_that_ends_before_the_others_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = [fake("a", [1, 2, 3]), fake("a", [1, 2], seed=1), fake("b", [1, 2, 3, 4])]  # rollouts that are rounded up
    budget = {"total_timesteps": 30}
    runs = [run._replace(spec={**run.spec, "budget": budget}) for run in runs]
    main(["compare", str(write_runs(tmp_path / "kept.json", runs))])
    told = capsys.readouterr().err
    assert "A: 1 of 3 runs have not taken all steps of their budget" in told
    main(["compare", str(write_runs(tmp_path / "kept.json", [runs[0], runs[2]]))])
    assert "budget" not in capsys.readouterr().err


def test_evaluations_are_not_compared_with_training_episodes(tmp_path: Path):
    evaluated, noisy = fake("a", [9, 9, 9]), fake("b", [1, 2, 3])
    # The better one was not evaluated; what explores gets less.
    trained = [{**record, "rollout/episode_return": 1.0 * i} for i, record in enumerate(evaluated.records, start=-3)]
    sampled = [{**record, "rollout/episode_return": record["eval/mean_reward"]} for record in noisy.records]
    for record in sampled:
        del record["eval/mean_reward"]
    runs = [evaluated._replace(records=trained), noisy._replace(records=sampled), fake("c", [5, 6], place="B")]
    first, second, elsewhere = compare_groups(group_runs(runs), {})
    assert (first.score.value, second.score.value, elsewhere.score.value) == (-1, 3, 6)
    assert second.better is not None
    assert second.better.value == 1.0
    kept = read_runs(write_runs(tmp_path / "kept.json", alike_returns(runs)))
    assert [line.score.value for line in compare_groups(group_runs(kept), {})] == [-1, 3, 6]
    assert kept[0].returns.values.tolist() == [9, 9, 9]
    page = render(runs)
    assert "mean return of the last 100 training episodes" in page
    assert "Each point is an evaluation" not in page.partition("B: ")[0]


def test_runs_of_data_keep_their_evaluations_where_one_has_none():
    records = [{**record, "env_steps": 0, "gradient_steps": record["env_steps"], "rollout/episode_return": None}
               for record in fake("a", [1, 2]).records]  # fmt: skip
    without = [{name: value for name, value in record.items() if name != "eval/mean_reward"} for record in records]
    runs = [run._replace(records=own) for run, own in ((fake("a", []), records), (fake("b", []), without))]
    (line,) = compare_groups(group_runs(runs), {})
    assert (line.label, line.offline, line.score.value) == ("a", True, 2)


def test_evaluations_some_steps_apart_are_of_the_same_step():
    late = fake("a", [1, 8], seed=1)
    late = late._replace(records=[{**record, "env_steps": record["env_steps"] * 1.005} for record in late.records])
    (line,) = compare_groups(group_runs([fake("a", [1, 2]), late]), {})
    assert (line.steps, line.score.value) == (20, 5.0)


def test_runs_without_a_return_by_then_have_a_line_without_a_score():
    runs = [fake("a", [1, 5]), fake("b", [7], every=30), fake("c", [2, 3])]
    first, second, third = compare_groups(group_runs(runs), {"A": 5})
    assert (second.n_runs, second.better, second.reached) == (1, None, (30, 2))
    assert np.isnan(second.score.value)
    assert third.better is not None
    assert list(overall(group_runs(runs))[1]) == ["c"]
    line = as_markdown([first, second, third], {"A": 5}).split("\n")[3]
    assert [cell.strip() for cell in line.split("|")] == ["", "A", "b", "1", "", "", "5.0: 30", "2", "2", ""]


def test_runs_are_compared_with_those_of_the_same_kind_of_steps():
    offline = fake("a", [1, 2, 3], every=1)
    offline = offline._replace(
        records=[{**record, "gradient_steps": record["env_steps"], "env_steps": 0} for record in offline.records]
    )
    longer = offline._replace(label="b", records=[*offline.records, *fake("b", [4, 9], every=1000).records])
    groups = group_runs([offline, longer, offline._replace(label="c")])
    lines = compare_groups(groups, {"A": 5})
    assert [(line.label, line.offline, line.steps, line.score.value) for line in lines] == [
        ("a", True, 3, 3),
        ("c", True, 3, 3),
        ("b", False, 2000, 9),
    ]
    assert lines[1].better is not None
    assert lines[2].better is None
    assert list(overall(groups)[1]) == ["c"]
    table = [[cell.strip() for cell in row.split("|")][1:4] for row in as_markdown(lines, {"A": 5}).split("\n")[2:]]
    assert table == [
        ["A, gradient steps", "a", "1"],
        ["A, gradient steps", "c", "1"],
        ["A, environment steps", "b", "1"],
    ]


def test_seconds_that_are_not_known_are_left_out():
    run = fake("a", [1, 5])
    run = run._replace(records=[{**record, "time/seconds": None} for record in run.records])
    (line,) = compare_groups(group_runs([run]), {"A": 5})
    row = as_markdown([line], {"A": 5}).split("\n")[2]
    assert [cell.strip() for cell in row.split("|")][-3:] == ["", "", ""]


def test_runs_on_data_are_told_apart_by_the_data():
    spec = {"algorithm": "bc", "env": "CartPole-v1"}
    runs = [Run(Path("bc"), {**spec, "dataset": data}, [], "bc") for data in ("cartpole-medium", "logs/mine.npz")]
    assert list(group_runs(runs)) == ["cartpole-medium", "mine"]


def test_a_threshold_that_half_of_the_runs_missed_has_no_median():
    (line,) = compare_groups(group_runs([fake("a", [1, 9]), fake("a", [1, 2], seed=1)]), {"A": 5})
    assert (line.n_reached, line.reached) == (1, None)
    assert "5.0: 1 of 2" in as_markdown([line], {"A": 5})


def test_returns_below_1_have_digits_and_a_bar_in_a_name_no_column():
    assert [number(x) for x in (0.0, 0.04, 0.736, 5.0, -0.5, 99.96, 1234.5)] == [
        "0.0", "0.04", "0.736", "5.0", "-0.5", "100.0", "1,234"
    ]  # fmt: skip
    assert markdown([["name", "b", "c"], ["x|y", "1", "2"]]).split("\n")[2] == "| x\\|y | 1 | 2 |"


def test_a_run_that_missed_the_threshold_counts_as_the_last():
    runs = [fake("a", returns, seed=i) for i, returns in enumerate(([9.0, 9.0], [1.0, 9.0], [1.0, 1.0]))]
    (line,) = compare_groups(group_runs(runs), {"A": 5})
    assert (line.n_reached, line.reached) == (2, (20, 4))


def test_the_probability_over_places_is_the_mean_of_each():
    runs = [
        fake("a", [x], place=place, seed=i)
        for place, xs in {"A": [1, 3], "B": [0, 0]}.items()
        for i, x in enumerate(xs)
    ]
    runs += [
        fake("b", [x], place=place, seed=i)
        for place, xs in {"A": [2, 4], "B": [0, 1]}.items()
        for i, x in enumerate(xs)
    ]
    first, others = overall(group_runs(runs))
    found, n = others["b"]
    assert (first, n) == ("a", 2)
    assert found.value == ((1 + 1 + 0 + 1) / 4 + (0.5 + 0.5 + 1 + 1) / 4) / 2
    assert found.low <= found.value <= found.high


def test_kept_returns_are_read_like_the_folders(tmp_path: Path):
    runs = [fake("a", [1, 2, 3]), fake("b", [4, 5], place="B", seed=7)]
    kept = write_runs(tmp_path / "kept.json", runs)
    again = find_runs([kept])
    assert [run.returns.values.tolist() for run in again] == [[1, 2, 3], [4, 5]]
    assert [run.returns.seconds.tolist() for run in again] == [[2, 4, 6], [2, 4]]
    assert as_markdown(compare_groups(group_runs(again), {}), {}) == as_markdown(
        compare_groups(group_runs(runs), {}), {}
    )
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ConfigError, match="holds no runs"):
        find_runs([tmp_path / "other.json"])


def test_the_plans_of_the_page_are_plans(tmp_path: Path):
    text = (Path(__file__).parents[1] / "docs" / "compare.md").read_text()
    plans = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    assert plans
    for plan in plans:
        assert plan_of(tomllib.loads(plan), "compare.md").jobs(tmp_path)


def test_one_line_of_several_places_is_not_told_to_beat_another_s_first():
    runs = [fake("a", [1]), fake("b", [2]), fake("b", [1], place="B"), fake("c", [2], place="B")]
    table = as_markdown(compare_groups(group_runs(runs), {}), {})
    assert "beats its first line" in table
    assert "beats a" in as_markdown(compare_groups(group_runs(runs[:2]), {}), {})


def test_runs_of_one_label_and_seed_in_two_folders_are_all_kept(tmp_path: Path):
    kept = write_runs(tmp_path / "kept.json", [fake("a", [1]), fake("a", [2])])
    assert [run.returns.values.tolist() for run in find_runs([kept])] == [[1], [2]]


def test_flags_outweigh_a_file_and_none_unsets(tmp_path: Path):
    plan = Plan({"awr": {"total_timesteps": 9, "max_grad_norm": "none"}}, ["CartPole-v1"], over={"total_timesteps": 20})
    spec = plan.jobs(tmp_path)[0].spec
    assert spec.budget.total_timesteps == 20
    assert dataclasses.asdict(spec.config)["max_grad_norm"] is None


# The command


@pytest.mark.long
def test_the_command_compares_reports_and_keeps_some_places_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "plan.toml"
    lines = [f"{name} = {value}" for name, value in TINY.items()]
    both = 'env = ["CartPole-v1", "Pendulum-v1"]'
    file.write_text("\n".join([both, "seeds = 1", *lines, "[settings.bc]", '[on."Pendulum-v1"]', "gamma = 0.9"]))
    out, kept = tmp_path / "out", tmp_path / "kept.json"
    main(["compare", "--config", str(file), "--env", "CartPole-v1", "--output", str(out), "--save", str(kept)])
    told = capsys.readouterr().out
    assert "1 runs" not in told
    assert "evaluation episodes after 60 environment steps, the last" in told
    assert "475.0: 0 of 1" in told
    assert len(json.loads(kept.read_text())["runs"]) == 1
    assert [run.place for run in find_runs([kept])] == ["CartPole-v1"]
    machine = json.loads(kept.read_text())["machine"]
    assert machine["cores"] == os.cpu_count()
    assert machine["versions"]["python"] == platform.python_version()
    main(["compare", "--config", str(file), "--env", "CartPole-v1", "--output", str(out), "--save", str(kept)])
    assert "machine" not in json.loads(kept.read_text()), "nothing ran"
    capsys.readouterr()
    main(["compare", str(out), "--threshold", "1", "--save", str(kept)])
    told = capsys.readouterr().out
    assert "1.0: 3" in told
    assert "machine" not in json.loads(kept.read_text()), "it may have been another"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "Say what to compare"),
        (["--algorithms", "arw", "--env", "CartPole-v1", "--total-timesteps", "9"], "Did you mean 'awr'?"),
        (["--algorithms", "awr:tund", "--env", "CartPole-v1", "--total-timesteps", "9"], "Did you mean 'tuned'?"),
        (["--algorithms", "awr", "--env", "CartPole-v2", "--total-timesteps", "9"], "CartPole-v2"),
        (["--algorithms", "awr", "--env", "CartPole-v1"], "Say how long 'awr' learns"),
        (["--algorithms", "awr", "--env", "CartPole-v1", "--total-timestep", "9"], "Did you mean '--total-timesteps'?"),
        (["nowhere"], "'nowhere' is not the folder of a run"),
        (["nowhere", "--seeds", "3"], "--seeds 3 has no effect on runs that are there"),
        (["--config", "nowhere.toml"], "there is no such file"),
        (["--algorithms", "awr", "--env", "CartPole-v1", "--total-timesteps", "9", "--processes", "0"], "processes=0"),
        (
            ["--algorithms", "awr", "--env", "CartPole-v1", "--total-timesteps", "9", "--save", "no/x.json"],
            "folder 'no'",
        ),
    ],
)
def test_a_mistake_is_one_line(
    args: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["compare", *args])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# The plans and results of benchmarks/


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("*.toml")), ids=lambda file: file.stem)
def test_the_plans_of_the_benchmarks_can_run(file: Path, tmp_path: Path):
    plan = plan_of(tomllib.loads(file.read_text()), str(file))
    others = plan.settings.keys() & {"ppo", "sac"} - ALGORITHMS.keys()
    if others:
        # Those of Stable-Baselines3, where they are known.
        plan = plan._replace(settings={name: own for name, own in plan.settings.items() if name not in others})
    jobs = plan.jobs(tmp_path)
    n_seeds = len(plan.seeds)
    assert len(jobs) == len(plan.settings) * n_seeds * (len(plan.envs) + len(plan.datasets))


@pytest.mark.long
def test_the_results_of_the_benchmarks_can_be_compared(capsys: pytest.CaptureFixture[str]):
    results = [
        file for file in sorted((BENCHMARKS / "results").glob("*.json")) if "runs" in json.loads(file.read_text())
    ]
    assert len(results) == 25
    for file in results:
        main(["compare", str(file)])
    told = capsys.readouterr().out
    # As docs/benchmarks.md has them.
    for line in ("CartPole-v1 | awr | 5 | 500.0 | 412.7 to 500.0", "Pendulum-v1 | awr | 5 | -129.6 | -136.1 to -124.5"):
        assert line in " ".join(told.split())
    main(["compare", str(BENCHMARKS / "results" / "time_to_solve_CartPole-v1.json"), "--threshold", "490"])
    told = " ".join(capsys.readouterr().out.split())
    assert "CartPole-v1 | awr | 3 | | 490.0: 8,000 | 9 | 9 |" in told
    assert "CartPole-v1 | ppo | 3 | | 490.0: 18,432 | 15 | 15 |" in told


def test_why_a_run_ended_is_its_error_and_not_where_it_goes_on(tmp_path: Path):
    from rlox.launch import Launch

    log = tmp_path / "0.log"
    log.write_text("Traceback:\nZeroDivisionError: mine\nThe last good checkpoint is 'x', of env step 30.\n")
    launch = Launch((), (tmp_path / "0",), "awr", None)
    assert launch._why(tmp_path / "0", 1) == "ZeroDivisionError: mine"
    log.write_text("rlox: error: Training diverged. The last good checkpoint is 'x', of env step 30.\n")
    assert launch._why(tmp_path / "0", 1) == "Training diverged. The last good checkpoint is 'x', of env step 30."
