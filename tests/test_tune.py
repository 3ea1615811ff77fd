"""Searches: their space, the study that is made of the trials' folders, and parents that are killed."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

import rlox
from rlox import ALGORITHMS, RunSpec
from rlox.cli import main
from rlox.core.config import ActionKind
from rlox.errors import ConfigError, RunInUseError, RunsFailedError
from rlox.plan import plan_of
from rlox.processes import Processes, last_record
from rlox.runs.lock import claim, release
from rlox.search import trials as folder
from rlox.search.results import table, write_results
from rlox.search.space import AWR_STEPS, SPACES, Choice, Range, check_space, entry, shown, space_of
from rlox.search.study import JOURNAL, Study
from rlox.search.trials import SEARCH, Outcome, Task, Trial
from rlox.search.tune import Search, _Loop, run_trials, tune
from rlox.spec import Budget

optuna = pytest.importorskip("optuna")

DOCS = Path(__file__).parents[1] / "docs"
SPACE = {"beta": Range(0.1, 10.0, log=True), "hidden": Choice((8, (8, 16), None)), "n_critic_updates": Range(1, 4)}
TINY: dict[str, Any] = {"hidden": 8, "batch_size": 16, "learning_starts": 20}


def task_of(space: dict[str, Any] | None = None, *, seeds: int = 1, prune: bool = True, seed: int = 0) -> Task:
    base = RunSpec.resolve("awr", env="CartPole-v1", seed=seed, budget=Budget(total_timesteps=1000, eval_interval=100))
    return Task(base=base, space=space or {"beta": SPACE["beta"]}, seeds=seeds, prune=prune)


def write_run(trial: Trial, returns: Iterable[float], run: int = 0, *, late: int = 0) -> None:
    """Write the log of a run with evaluations every 100 steps."""
    job = trial.jobs[run]
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(job.spec.to_dict()))
    lines = [
        {"time": i, "env_steps": 100 * i + late, "gradient_steps": i, "eval/mean_reward": x}
        for i, x in enumerate(returns, start=1)
    ]
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def add_trial(
    out: Path, task: Task, number: int, settings: dict[str, Any], returns: Iterable[float], outcome: Outcome | None
) -> Trial:
    trial = folder.make_trial(out, task, number, settings)
    folder.keep(out, number, settings)
    write_run(trial, returns)
    return trial if outcome is None else folder.finish(out, trial, outcome)


def a_search(out: Path) -> tuple[Task, dict[int, Trial]]:
    """A search with two trials that are complete, one that is pruned, one that failed and one that goes on."""
    task = task_of()
    folder.begin(out, task)
    add_trial(out, task, 0, {"beta": 1.0}, range(10), Outcome("complete", 8.5, 10))
    add_trial(out, task, 1, {"beta": 2.0}, [5.0] * 10, Outcome("complete", 5.0, 10))
    add_trial(out, task, 2, {"beta": 3.0}, [0.0, 1.0, 7.0], Outcome("pruned", 1.0, 2))
    add_trial(out, task, 3, {"beta": 4.0}, [], Outcome("failed", None, 0, "Training diverged."))
    add_trial(out, task, 4, {"beta": 5.0}, [1.0, 2.0], None)
    return task, folder.read_trials(out, task)


def load(out: Path) -> Any:
    """The study as Optuna's tools read it."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return optuna.load_study(study_name="rlox", storage=JournalStorage(JournalFileBackend(str(out / JOURNAL))))


def seen(study: Any) -> list[tuple[str, Any, dict[str, Any], dict[int, float]]]:
    return [(t.state.name, t.value, t.params, t.intermediate_values) for t in study.trials]


# The space


@pytest.mark.parametrize("name", [*ALGORITHMS, AWR_STEPS])
@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_every_algorithm_has_a_space_of_settings_that_it_takes(name: str, actions: ActionKind):
    algorithm = name.partition(",")[0]
    budget = Budget(total_timesteps=10_000, eval_interval=500)
    base = RunSpec.resolve(algorithm, env="CartPole-v1", budget=budget)
    assert name in SPACES
    fixed = {"rollout_steps": None} if name == AWR_STEPS else {}
    space = space_of(base, fixed, {}, actions=actions)
    assert {field: SPACES[name][field] for field in space} == space
    check_space(space, Task(base=base, space=space).spec)
    left_out = SPACES[name].keys() - space.keys()
    needs = {field.name: field.metadata["needs"] for field in dataclasses.fields(base.config)}
    context = {**dataclasses.asdict(base.config), "actions": actions}
    assert all(any(context[name] != value for name, value in needs[field].items()) for field in left_out)


def test_data_and_presets_choose_the_space_of_awr():
    base = RunSpec.resolve("awr", env="CartPole-v1")
    data = dataclasses.replace(base, dataset="cartpole-medium")
    tuned = RunSpec.resolve("awr", env="CartPole-v1", preset="tuned", dataset="cartpole-medium")
    assert space_of(base, {}, {}, actions="discrete").keys() == SPACES["awr"].keys()
    assert space_of(data, {}, {}, actions="discrete").keys() == SPACES[AWR_STEPS].keys()
    assert space_of(base, {"rollout_steps": None}, {}, actions="discrete").keys() == SPACES[AWR_STEPS].keys()
    assert space_of(tuned, {}, {}, actions="discrete").keys() == SPACES["awr"].keys()


def test_what_has_no_effect_beside_the_fixed_settings_is_not_searched():
    def tried(**fixed: object) -> set[str]:
        base = RunSpec.resolve("mpo", env="Pendulum-v1", config=fixed)
        return set(space_of(base, fixed, {}, actions="continuous"))

    assert {"tau", "epsilon"} & tried() == {"epsilon"}  # with batch normalisation there is no target critic
    assert {"tau", "epsilon"} & tried(batch_norm=False) == {"tau", "epsilon"}
    assert {"tau", "epsilon"} & tried(batch_norm=False, beta=1.0) == {"tau"}
    base = RunSpec.resolve("mpo", env="Pendulum-v1")
    assert "tau" in space_of(base, {}, {"batch_norm": [False, True]}, actions="continuous")
    assert "tau" in space_of(base, {}, {"tau": (0.1, 0.2)}, actions="continuous"), "what is asked for is tried"


def test_settings_of_rounds_may_be_fixed_where_rounds_are_searched(monkeypatch: pytest.MonkeyPatch):
    searched: list[Task] = []

    def search(task: Task, *_: Any, **__: Any) -> None:
        searched.append(task)
        raise RunsFailedError("that will do")

    monkeypatch.setattr("rlox.search.tune.run_trials", search)
    with pytest.raises(RunsFailedError, match="that will do"):
        rlox.tune("awr", "CartPole-v1", trials=1, total_timesteps=4096, config={"td_lambda": 0.95})
    assert searched[0].base.config.td_lambda == 0.95  # pyright: ignore[reportAttributeAccessIssue]
    assert "rollout_steps" in searched[0].space
    with pytest.raises(ConfigError, match=r"td_lambda=0\.95 needs rounds"):
        rlox.tune("awr", "CartPole-v1", trials=1, config={"td_lambda": 0.95, "rollout_steps": None})


def test_choices_that_the_fixed_settings_rule_out_are_not_tried():
    base = RunSpec.resolve("crr", env="CartPole-v1", config={"weights": "binary"})
    assert "baseline" not in space_of(base, {"weights": "binary"}, {}, actions="discrete")
    assert "baseline" in space_of(base, {"weights": "binary"}, {}, actions="continuous")
    assert "baseline" not in space_of(RunSpec.resolve("crr"), {}, {"weights": ["exp", "binary"]}, actions="discrete")
    assert "baseline" in space_of(RunSpec.resolve("crr"), {}, {"weights": ["exp"]}, actions="discrete")


def test_a_space_with_values_that_these_actions_rule_out_is_refused(tmp_path: Path):
    space = {"weights": ["exp", "binary"], "baseline": ["mean", "max"]}
    with pytest.raises(ConfigError, match="weights='binary' with baseline='max' gives no choice a weight"):
        tune("crr", env="CartPole-v1", space=space, trials=1, total_timesteps=100, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_fixed_is_not_searched_and_what_is_given_is():
    base = RunSpec.resolve("iql", env="CartPole-v1")
    own: dict[str, object] = {"beta": "1:2", "n_critics": (1, 3), "hidden": [[8, 16]]}
    space = space_of(base, {"gamma": 0.9}, own, actions="discrete")
    assert "gamma" not in space
    assert space["beta"] == Range(1.0, 2.0)
    assert isinstance(space["beta"].values[0], float), "beta is no whole number"
    assert space["n_critics"] == Range(1, 3)
    assert space["hidden"] == Choice(((8, 16),))


@pytest.mark.parametrize(
    ("tried", "found"),
    [
        ("0.1:10:log", Range(0.1, 10, log=True)),
        ("1:4", Range(1, 4)),
        ("64,128", Choice((64, 128))),
        ("none,true,exp", Choice((None, True, "exp"))),
        ((0.1, 1.0, "log"), Range(0.1, 1.0, log=True)),
        (Range(1, 2), Range(1, 2)),
        (Choice((1, 2)), Choice((1, 2))),
    ],
)
def test_what_is_tried_can_be_given_in_several_ways(tried: object, found: Range | Choice):
    assert entry("beta", tried) == found


def test_values_that_do_not_go_together_are_refused_before_the_search():
    base = RunSpec.resolve("mpo", env="Pendulum-v1", budget=Budget(total_timesteps=100, eval_interval=50))
    own = {"initial_std": "0.1:1", "max_std": "0.5:2"}
    space = space_of(base, {}, own, actions="continuous")
    with pytest.raises(ConfigError, match=r"do not go together: initial_std=1\.0 must be less than max_std=0\.5"):
        check_space(space, Task(base=base, space=space).spec)


@pytest.mark.parametrize("tried", [(2, 1), "1:1", "0:1:log", "a:b", (1, 2, "lin"), (1,), [], Choice(()), 3, (True, 2)])
def test_what_is_no_space_is_one_line(tried: object):
    with pytest.raises(ConfigError, match=r"The space of 'beta' is .*: it must be a range"):
        entry("beta", tried)


def test_the_table_on_the_page_is_the_space():
    page = (DOCS / "tune.md").read_text()
    rows = [
        f"| {name} | {'; '.join(f'`{of}` {tried}' for of, tried in space.items())} |" for name, space in SPACES.items()
    ]
    assert "| algorithm | settings |\n|---|---|\n" + "\n".join(rows) + "\n\n" in page


# Trials and their folder


def test_a_value_is_of_the_last_quarter_of_the_evaluations_of_each_seed(tmp_path: Path):
    task = task_of(seeds=2, seed=7)
    trial = folder.make_trial(tmp_path, task, 3, {"beta": 2.0})
    assert [job.spec.seed for job in trial.jobs] == [7, 8]
    assert trial.jobs[1].folder == tmp_path / "trial-0003" / "CartPole-v1" / "8"
    write_run(trial, [0, 0, 0, 0, 0, 0, 10, 20])
    assert trial.value() is None, "one seed has not run"
    write_run(trial, [4], run=1)
    assert trial.value() == (15 + 4) / 2


def test_evaluations_are_counted_by_when_they_were_due(tmp_path: Path):
    trial = folder.make_trial(tmp_path, task_of(), 0, {"beta": 2.0})
    assert folder.evaluations(trial.jobs[0]) == {}
    write_run(trial, [3.0, 4.0], late=28)
    assert folder.evaluations(trial.jobs[0]) == {1: 3.0, 2: 4.0}


def test_what_is_written_is_read_again(tmp_path: Path):
    task = task_of(SPACE)
    folder.begin(tmp_path, task)
    settings = {"beta": 0.1 + 0.2, "hidden": (8, 16), "n_critic_updates": 2}
    trial = add_trial(tmp_path, task, 5, settings, [], Outcome("failed", None, 0, "it\ndiverged"))
    assert folder.read_trials(tmp_path, task) == {5: trial}
    assert trial.jobs[0].spec.config.hidden == (8, 16)
    folder.begin(tmp_path, task)


def test_a_search_goes_on_only_as_itself(tmp_path: Path):
    folder.begin(tmp_path, task_of())
    for other, told in (
        (task_of({"beta": Range(0.1, 9.0, log=True)}), r"space.beta='0.1 to 10, log', not '0.1 to 9, log'"),
        (task_of(seed=1), "seed=0, not 1"),
        (task_of(prune=False), "prune=True, not False"),
    ):
        with pytest.raises(ConfigError, match=f"has a search with {told}"):
            folder.begin(tmp_path, other)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="holds something else than a search"):
        folder.begin(tmp_path / "other", task_of())


@pytest.mark.parametrize("text", ["", "[]", '{"settings": {"gamma": 1}}', '{"settings": 3}'])
def test_a_trial_that_cannot_be_read_is_one_line(tmp_path: Path, text: str):
    task, _ = a_search(tmp_path)
    (tmp_path / "trial-0001" / "trial.json").write_text(text)
    with pytest.raises(
        ConfigError, match=r"trial.json' cannot be read .*: remove its folder, and that trial is run again"
    ):
        folder.read_trials(tmp_path, task)


def test_the_first_trial_is_where_the_search_starts_if_the_space_has_it():
    assert task_of().start == {"beta": 1.0}
    assert task_of({"beta": Range(2.0, 3.0)}).start is None
    assert task_of({"rollout_steps": Choice((512,))}).start is None


# The study


def test_the_study_is_made_of_the_trials(tmp_path: Path):
    task, trials = a_search(tmp_path)
    Study(tmp_path / JOURNAL, task, trials)
    assert seen(load(tmp_path)) == [
        ("COMPLETE", 8.5, {"beta": 1.0}, {i + 1: float(i) for i in range(10)}),
        ("COMPLETE", 5.0, {"beta": 2.0}, dict.fromkeys(range(1, 11), 5.0)),
        ("PRUNED", 1.0, {"beta": 3.0}, {1: 0.0, 2: 1.0}),
        ("PRUNED", None, {"beta": 4.0}, {}),
        ("RUNNING", None, {"beta": 5.0}, {}),
    ]


def damage(journal: Path, how: str) -> None:
    if how == "torn":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif how == "nonsense":
        journal.write_bytes(b"\x00\xff\n" * 10)
    elif how == "missing":
        journal.unlink()
    elif how == "doubled":
        journal.write_bytes(journal.read_bytes() * 2)
    elif how == "locked":
        # As Optuna's own lock is, whose owner was killed.
        os.symlink(journal, f"{journal}.lock")


DAMAGE = ["torn", "nonsense", "missing", "doubled", "locked"]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_journal_that_is_damaged_before_is_made_again(tmp_path: Path, how: str):
    task, trials = a_search(tmp_path)
    Study(tmp_path / JOURNAL, task, trials).report(4, 1, 1.0)
    expected = Study(tmp_path / JOURNAL, task, trials).ask(5)
    before = seen(load(tmp_path))
    damage(tmp_path / JOURNAL, how)
    began = time.monotonic()
    assert Study(tmp_path / JOURNAL, task, trials).ask(5) == expected
    assert time.monotonic() - began < 10, "nobody is waited for"
    assert not os.path.lexists(f"{tmp_path / JOURNAL}.lock"), "Optuna's tools would wait for it"
    assert seen(load(tmp_path)) == before


def test_a_journal_that_breaks_as_a_trial_ends_is_made_with_its_end(tmp_path: Path):
    task, trials = a_search(tmp_path)
    study = Study(tmp_path / JOURNAL, task, trials)
    damage(tmp_path / JOURNAL, "nonsense")
    trials[4] = folder.finish(tmp_path, trials[4], Outcome("complete", 3.0, 2))
    with pytest.warns(UserWarning, match=r"written anew from the trials"):
        study.tell(4, Outcome("complete", 3.0, 2))
    assert seen(load(tmp_path))[4] == ("COMPLETE", 3.0, {"beta": 5.0}, {1: 1.0, 2: 2.0})
    assert 0.1 <= study.ask(5)["beta"] <= 10


@pytest.mark.parametrize("how", ["torn", "nonsense", "locked"])
def test_a_journal_that_is_damaged_on_the_way_is_made_again(tmp_path: Path, how: str):
    task, trials = a_search(tmp_path)
    study = Study(tmp_path / JOURNAL, task, trials)
    study.report(4, 1, 1.0)
    damage(tmp_path / JOURNAL, how)
    if how == "locked":
        study.report(4, 2, 2.0)
    else:
        with pytest.warns(UserWarning, match=r"cannot be used .*: it is written anew from the trials"):
            study.report(4, 2, 2.0)
    # As a search does: it writes how a trial ended before it tells the study.
    trials[4] = folder.finish(tmp_path, trials[4], Outcome("complete", 3.0, 2))
    study.tell(4, Outcome("complete", 3.0, 2))
    states = [(state, value) for state, value, *_ in seen(load(tmp_path))]
    assert states[3:] == [("PRUNED", None), ("COMPLETE", 3.0)]
    assert seen(load(tmp_path))[4][3][1] == 1.0


def test_a_journal_that_cannot_be_written_is_done_without(tmp_path: Path):
    task, trials = a_search(tmp_path)
    (tmp_path / JOURNAL).mkdir()
    with pytest.warns(UserWarning, match=r"cannot be written .*: the search goes on without it"):
        study = Study(tmp_path / JOURNAL, task, trials)
    assert 0.1 <= study.ask(5)["beta"] <= 10
    study.tell(4, Outcome("complete", 3.0, 2))


def test_a_search_that_goes_on_does_not_judge_again_what_a_trial_has_outlived(tmp_path: Path):
    task = task_of()
    trials = {
        i: add_trial(tmp_path, task, i, {"beta": float(i + 1)}, [100.0] * 10, Outcome("complete", 100.0, 10))
        for i in range(6)
    }
    trials[6] = add_trial(tmp_path, task, 6, {"beta": 7.0}, [1.0] * 5, None)
    study, nothing = Study(tmp_path / JOURNAL, task, trials), cast(Any, None)
    loop = _Loop(tmp_path, task, 7, trials, study, nothing, nothing)
    assert not loop._look(6)
    assert seen(load(tmp_path))[6][3] == dict.fromkeys(range(1, 6), 1.0)


def test_a_search_of_before_a_setting_was_there_goes_on(tmp_path: Path):
    task = task_of()
    folder.begin(tmp_path, task)
    was = json.loads((tmp_path / SEARCH).read_text())
    del was["layer_norm"]
    (tmp_path / SEARCH).write_text(json.dumps(was))
    folder.begin(tmp_path, task)
    (tmp_path / SEARCH).write_text(json.dumps(was | {"layer_norm": "other"}))
    with pytest.raises(ConfigError, match="layer_norm='other'"):
        folder.begin(tmp_path, task)


def test_what_is_tried_next_follows_from_the_seed_and_the_trials(tmp_path: Path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    task, trials = a_search(tmp_path / "a")
    first = Study(tmp_path / "a" / JOURNAL, task, trials)
    asked = [first.ask(i) for i in (5, 6)]
    assert asked[0] != asked[1]
    # Another parent, which was killed in between.
    task, trials = a_search(tmp_path / "b")
    assert Study(tmp_path / "b" / JOURNAL, task, trials).ask(5) == asked[0]
    trials[5] = add_trial(tmp_path / "b", task, 5, asked[0], [], None)
    assert Study(tmp_path / "b" / JOURNAL, task, trials).ask(6) == asked[1]
    other = dataclasses.replace(task, base=dataclasses.replace(task.base, seed=1))
    assert Study(tmp_path / "c" / JOURNAL, other, trials).ask(6) != asked[1]


def test_choices_of_several_numbers_come_back_as_they_are(tmp_path: Path):
    task = task_of({"hidden": Choice(((8, 16), (4, 4))), "n_critic_updates": Range(1, 4)})
    study = Study(tmp_path / JOURNAL, task, {})
    asked = [study.ask(i) for i in range(12)]
    assert {settings["hidden"] for settings in asked} == {(8, 16), (4, 4)}
    assert {settings["n_critic_updates"] for settings in asked} <= {1, 2, 3, 4}
    assert {type(settings["n_critic_updates"]) for settings in asked} == {int}
    trials = {i: folder.make_trial(tmp_path, task, i, settings) for i, settings in enumerate(asked)}
    Study(tmp_path / JOURNAL, task, trials)
    assert [trial.params["hidden"] for trial in load(tmp_path).trials] == [shown(s["hidden"]) for s in asked]


def test_a_trial_below_the_median_is_behind_once_some_are_complete(tmp_path: Path):
    task = task_of()
    trials = {
        i: add_trial(tmp_path, task, i, {"beta": 1.0 + i}, [10.0 * i] * 10, Outcome("complete", 10.0 * i, 10))
        for i in range(5)
    }
    for beta, value, behind in ((0.2, 19.0, True), (0.3, 21.0, False)):
        study = Study(tmp_path / JOURNAL, task, trials)
        study.begin(5, {"beta": beta})
        answers = [study.report(5, evaluation, value) for evaluation in range(1, 6)]
        assert answers == [False, behind, behind, behind, behind], "the first fifth is spared"
    del trials[4]
    study = Study(tmp_path / JOURNAL, task, trials)
    study.begin(5, {"beta": 0.2})
    assert not any(study.report(5, evaluation, -1.0) for evaluation in range(1, 6))


# Searches


def search(out: Path, **more: Any) -> Search:
    how: dict[str, Any] = {
        "trials": 2,
        "total_timesteps": 60,
        "eval_interval": 20,
        "n_eval_episodes": 1,
        "config": TINY,
        "output": out,
    }
    return rlox.tune("bc", "CartPole-v1", **{**how, **more})


@pytest.mark.long
def test_a_search_leaves_a_table_the_best_settings_and_their_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "search"
    found = search(out, trials=1, seeds=2, seed=3)
    assert [trial.outcome.state for trial in found.trials if trial.outcome] == ["complete"]
    assert [job.spec.seed for job in found.best.jobs] == [3, 4]
    values = tomllib.loads((out / "best.toml").read_text())
    assert (values["algorithm"], values["hidden"], values["seed"]) == ("bc", 8, 3)
    assert {name: values[name] for name in found.best.settings} == found.best.settings
    for name in ("table.md", "report.html", "search.png"):
        assert (out / name).stat().st_size > 100
    assert rlox.Policy.load(found.best_run).action_space.shape == ()
    again = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")}
    assert search(out, trials=1, seeds=2, seed=3) == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")} == again, "nothing runs twice"
    main(["train", "bc", "--config", str(out / "best.toml"), "--print-config"])
    assert tomllib.loads(capsys.readouterr().out) == values
    main(["compare", str(out)])
    assert found.best.label in capsys.readouterr().out


def test_the_best_settings_are_those_of_the_best_trial(tmp_path: Path):
    task = task_of()
    trials = [
        add_trial(tmp_path, task, number, {"beta": beta}, [value], Outcome("complete", value, 1))
        for number, (beta, value) in enumerate([(1.0, 3.0), (2.0, 5.0), (3.0, 4.0)])
    ]
    write_results(Search(tmp_path, trials), task.space)
    best = (tmp_path / "best.toml").read_text()
    assert best.startswith("# trial-0001 of 3: return 5")
    assert tomllib.loads(best)["beta"] == 2.0


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_settings_that_diverge_are_a_trial_that_failed(env: str, tmp_path: Path):
    space = {"learning_rate": [1e-3, 1e30]}
    found = rlox.tune("iql", env, trials=3, total_timesteps=60, config=TINY, space=space, prune=False, output=tmp_path)
    ended = {trial.settings["learning_rate"]: trial.outcome for trial in found.trials if trial.outcome}
    assert ended[1e-3].state == "complete"
    assert ended[1e30].state == "failed"
    assert "Training diverged" in ended[1e30].why
    assert found.best.settings["learning_rate"] == 1e-3


def test_trials_that_have_ended_do_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task, trials = a_search(tmp_path)
    folder.finish(tmp_path, trials[4], Outcome("pruned", 2.0, 2))
    monkeypatch.setattr("rlox.processes.Processes.start", lambda _, job: pytest.fail(f"{job.folder} began"))
    found = run_trials(task, tmp_path, 5, engine=Processes([0]), progress=False)
    states = [trial.outcome.state for trial in found.trials if trial.outcome]
    assert states == ["complete", "complete", "pruned", "failed", "pruned"]


class Instant(Processes):
    """Runs whose evaluations are 5 as soon as they begin."""

    going: tuple[Any, ...] = ()

    @property
    def running(self) -> list[Any]:
        return list(self.going)

    def start(self, *jobs: Any) -> None:
        write_run(Trial(0, {}, jobs), [5.0] * 10)
        self.going = (*self.going, *jobs)

    def ended(self) -> list[tuple[Any, str | None]]:
        ended, self.going = self.going, ()
        return [(job, None) for job in ended]


def test_a_trial_that_is_run_again_is_in_its_place(tmp_path: Path):
    task, trials = a_search(tmp_path)
    folder.finish(tmp_path, trials[4], Outcome("pruned", 2.0, 2))
    shutil.rmtree(tmp_path / trials[0].label)
    found = run_trials(task, tmp_path, 5, engine=Instant([0]), progress=False)
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3, 4]
    assert [trial.number for trial in found.ranked] == [0, 1], "of equal ones the first"


def test_one_parent_at_a_time(tmp_path: Path):
    lock = claim(tmp_path)
    try:
        with pytest.raises(RunInUseError, match="wait until it ends, or name another output"):
            search(tmp_path)
    finally:
        release(lock)


@pytest.mark.long
def test_runs_that_break_for_another_reason_end_the_search_and_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(RunsFailedError, match=r"3 of the trials broke.*'no_such_module'"):
        search(tmp_path, trials=9, processes=1, modules=["no_such_module"])
    assert len(list(tmp_path.glob("trial-*"))) == 3
    assert not list(tmp_path.glob("trial-*/outcome.json"))
    monkeypatch.setattr("rlox.search.tune.make_engine", lambda **_: Instant([0]))
    found = search(tmp_path, trials=3)
    assert [trial.outcome.state for trial in found.trials if trial.outcome] == ["complete"] * 3


def test_a_search_without_a_complete_trial_has_no_best(tmp_path: Path):
    task = task_of()
    trial = add_trial(tmp_path, task, 0, {"beta": 1.0}, [], Outcome("failed", None, 0, "Training diverged."))
    with pytest.raises(RunsFailedError, match=r"None of the trials in '.*' is complete. The first: Training diverged."):
        _ = Search(tmp_path, [trial]).best


def test_the_table_has_the_best_first(tmp_path: Path):
    task, trials = a_search(tmp_path)
    rows = table(Search(tmp_path, list(trials.values())), task.space).split("\n")[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells[:4]] == [["0", "complete"], ["1", "complete"], ["2", "pruned"], ["3", "failed"]]
    assert cells[0][2:] == ["8.5", "1"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["awr"], "There is no environment, and a search is for the settings with the highest evaluation return"),
        (["awr", "--dataset", "my.npz"], "'my.npz' has no environment to evaluate in"),
        (["awr", "--env", "CartPole-v1"], "Say how long 'awr' learns: total_timesteps"),
        (["awr", "--env", "CartPoly-v1", "--total-timesteps", "9"], "could not be created"),
        (["awr", "--env", "CartPole-v1", "--gradient-steps", "9"], "gradient_steps=9 needs data"),
        (["arw", "--env", "CartPole-v1"], "'arw' is not an algorithm of rlox. Did you mean 'awr'?"),
        (["--env", "CartPole-v1"], "The first argument of `rlox tune` is the algorithm"),
        (["awr", "--env", "CartPole-v1", "--total-timesteps", "99", "--space", "bata=1:2"], "Did you mean 'beta'?"),
        (["awr", "--env", "CartPole-v1", "--total-timesteps", "99", "--space", "beta"], "write NAME=LOW:HIGH"),
        (
            ["awr", "--env", "CartPole-v1", "--total-timesteps", "99", "--beta", "1", "--space", "beta=1:2"],
            "'beta' is fixed to 1.0, and there is a space for it",
        ),
        (
            ["awr", "--env", "CartPole-v1", "--total-timesteps", "99", "--space", "beta=-1:2"],
            "beta=-1.0 is out of range",
        ),
        (
            ["awr", "--env", "CartPole-v1", "--total-timesteps", "99", "--eval-interval", "100"],
            "eval_interval=100 leaves no evaluation",
        ),
        (["awr", "--env", "CartPole-v1", "--total-timesteps", "99", "--trials", "0"], "trials=0 must be"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    args: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["tune", *args])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# Parents that are killed


def start(out: Path, n: int, processes: int, steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rlox", "tune", "bc", "--env", "CartPole-v1", "--trials", str(n)]
    command += ["--total-timesteps", str(steps), "--eval-interval", str(steps // 10), "--n-eval-episodes", "1"]
    command += ["--hidden", "8", "--batch-size", "16", "--learning-starts", "20", "--processes", str(processes)]
    return subprocess.Popen([*command, "--output", str(out)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcomes(out: Path) -> dict[str, tuple[int, str]]:
    return {file.parent.name: (file.stat().st_mtime_ns, file.read_text()) for file in out.glob("trial-*/outcome.json")}


def steps_of(out: Path) -> int:
    """Steps of all runs so far."""
    return sum((last_record(file.parent) or {"env_steps": 0})["env_steps"] for file in out.rglob("metrics.jsonl"))


def check_each_once(out: Path, n: int) -> None:
    """Every trial has ended once, each run has each record once, and the study has each trial once."""
    assert sorted(outcomes(out)) == [f"trial-{i:04}" for i in range(n)]
    for file in out.rglob("metrics.jsonl"):
        steps = [json.loads(line)["env_steps"] for line in file.read_text().splitlines()]
        assert steps == sorted(set(steps)), file
    study = load(out)
    assert len(study.trials) == n
    assert all(trial.state.is_finished() for trial in study.trials)
    for i, trial in enumerate(study.trials):
        kept = json.loads((out / f"trial-{i:04}" / "trial.json").read_text())["settings"]
        ended = json.loads((out / f"trial-{i:04}" / "outcome.json").read_text())
        assert trial.params == kept
        assert trial.state.name == {"complete": "COMPLETE"}.get(ended["state"], "PRUNED")
        assert trial.value == ended["value"] or ended["state"] == "failed"


def kill_and_finish(out: Path, *, n: int, kills: int, processes: int, steps: int, rng: random.Random) -> None:
    """Kill the parent at moments of the search, some of them as it starts, and let it finish."""
    ended: dict[str, tuple[int, str]] = {}
    for i in range(kills):
        process = start(out, n, processes, steps)
        until = n * steps * (i + rng.random()) / (kills + 1)
        deadline = time.monotonic() + 900
        try:
            while process.poll() is None and steps_of(out) < until:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(rng.random() / 2)
        finally:
            process.kill()
            process.communicate()
        if (out / JOURNAL).exists() and rng.random() < 0.5:
            damage(out / JOURNAL, rng.choice(DAMAGE))
        assert ended.items() <= outcomes(out).items(), "what has ended stays as it was"
        ended = outcomes(out)
    process = start(out, n, processes, steps)
    told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    assert ended.items() <= outcomes(out).items()
    check_each_once(out, n)


@pytest.mark.slow
def test_a_search_that_is_killed_finishes_each_trial_once(tmp_path: Path):
    kill_and_finish(tmp_path / "out", n=3, kills=2, processes=2, steps=300, rng=random.Random(1))


@pytest.mark.slow
def test_a_search_killed_ten_times_finishes_each_trial_once(tmp_path: Path):
    kill_and_finish(tmp_path / "out", n=10, kills=10, processes=2, steps=2000, rng=random.Random(2))


@pytest.mark.slow
def test_one_run_at_a_time_is_the_same_search_killed_or_not(tmp_path: Path):
    kill_and_finish(tmp_path / "killed", n=12, kills=4, processes=1, steps=1000, rng=random.Random(3))
    process = start(tmp_path / "whole", 12, 1, 1000)
    told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    for name in ("trial.json", "outcome.json"):
        found = [
            {file.parent.name: json.loads(file.read_text()) for file in (tmp_path / search).glob(f"trial-*/{name}")}
            for search in ("killed", "whole")
        ]
        assert found[0] == found[1]


@pytest.mark.long
def test_ctrl_c_ends_a_search_with_checkpoints_and_the_same_command_goes_on(tmp_path: Path):
    out = tmp_path / "out"
    process = start(out, 2, 1, 100_000)
    deadline = time.monotonic() + 300
    while steps_of(out) < 1000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Stopped: 0 of 2 trials are finished. The same command goes on with the rest." in error
    run = out / "trial-0000" / "CartPole-v1" / "0"
    assert "Stopped at step" in run.with_suffix(".log").read_text()
    assert (run / "checkpoint.safetensors").exists()


# The page


@pytest.mark.long
def test_the_page_runs_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "tune.md").read_text()
    smaller = {"trials=30": "trials=2", "20_000": "60", "50_000": "60"}
    code = next(code for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "trials=30" in code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    for old, new in smaller.items():
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["trainer"].env_steps == 60
    assert json.loads(Path("runs/search/trial-0001/outcome.json").read_text())["state"] == "complete"


def test_the_settings_of_the_page_can_be_compared(tmp_path: Path):
    page = (DOCS / "tune.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    jobs = plan_of(tomllib.loads(text), "tuned.toml").jobs(tmp_path)
    assert [job.label for job in jobs] == ["awr", "tuned"] * 5
