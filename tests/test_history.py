"""Runs that are read back, their groups, and statistics over seeds against brute force and rliable."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlox.errors import ConfigError
from rlox.runs.history import COMPARISON, Run, find_runs, group_runs, read_run, read_runs, write_runs
from rlox.runs.statistics import (
    MOST_STEPS,
    N_DRAWS,
    curve,
    estimate,
    improvement,
    interquartile_mean,
    interval,
    probability_of_improvement,
    reached,
    resample,
)
from written import append, evaluated, records_of, write_run

RNG = np.random.default_rng(0)


def test_runs_are_found_once_wherever_they_are_below_a_folder(tmp_path: Path):
    for name in ("a/0", "a/1", "b"):
        write_run(tmp_path / name, records_of(3, actor__loss=1.0))
    (tmp_path / "b" / "videos").mkdir()
    found = find_runs([tmp_path, tmp_path / "a", tmp_path / "b"])
    assert [run.path for run in found] == [tmp_path / name for name in ("a/0", "a/1", "b")]
    assert find_runs([tmp_path / "a" / "1"])[0].records[2]["env_steps"] == 3000


def test_a_run_without_records_is_found_by_its_own_name(tmp_path: Path):
    run = write_run(tmp_path / "new")
    (tmp_path / "new" / "metrics.jsonl").unlink()
    assert find_runs([tmp_path / "new"])[0].records == run.records == []
    assert not len(run.returns.steps)
    assert not run.learned_offline_only


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (None, "'{}' is not the folder of a run: it has no config.json. Did you mean 'first'?"),
        ("{", "cannot be read: Expecting property name"),
        ("[1]", "it does not name an algorithm."),
        ('{"algorithm": 3}', "it does not name an algorithm."),
        ('{"algorithm": "awr", "config": [1]}', "its settings are not a table."),
        ('{"algorithm": "awr", "seed": "x"}', "its seed is not a whole number"),
        ('{"algorithm": "awr", "preset": ["x"]}', "its preset not a name"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_not_a_run_is_said_in_one_line(tmp_path: Path, written: str | None, told: str):
    write_run(tmp_path / "first")
    folder = tmp_path / "frist"
    folder.mkdir()
    if written is not None:
        (folder / "config.json").write_text(written)
    with pytest.raises(ConfigError) as caught:
        read_run(folder)
    assert told.format(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_being_written_is_left_for_later_and_a_damaged_one_is_said(tmp_path: Path):
    run = write_run(tmp_path / "run", records_of(2, actor__loss=1.0))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1, "env_ste')
    assert len(read_run(run.path).records) == 2
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match=r"The run '.*run' cannot be read: .*\.$"):
        read_run(run.path)


def test_records_are_numbers_and_what_is_not_finite_is_nothing(tmp_path: Path):
    run = write_run(tmp_path / "run", records_of(1, actor__loss=1.0))
    odd = {"time": 1e3, "env_steps": 2000, "gradient_steps": 1000, "actor/loss": float("nan"), "critic/loss": 10**400}
    append(run.path, {**odd, "weight/max": "<b>", "weight/mean": True, "advantage/mean": None}, {"env_steps": 3000})
    append(run.path, {**odd, "env_steps": None}, {**odd, "env_steps": "4000"})
    run = read_run(run.path)
    assert len(run.records) == 2
    assert run.records[1] == {**odd, "actor/loss": None, "critic/loss": None, "advantage/mean": None}
    np.testing.assert_array_equal(run.series("actor/loss").values, [1.0])


def test_a_series_has_steps_values_and_seconds_and_holds_between_records(tmp_path: Path):
    run = write_run(tmp_path / "run", records_of(3, critic__loss=[3.0, None, 1.0]))
    series = run.series("critic/loss")
    np.testing.assert_array_equal(series.steps, [1000, 3000])
    np.testing.assert_array_equal(series.values, [3, 1])
    np.testing.assert_array_equal(series.seconds, [10, 30])
    assert [series.at(step) for step in (1000, 2999.0, 3000, 1e9)] == [3, 3, 1, 1]
    assert np.isnan(series.at(999))


def test_learning_from_data_is_told_from_learning_in_an_environment(tmp_path: Path):
    offline = [
        {"time": 1.0 + i, "env_steps": 0, "gradient_steps": 100 * (i + 1), "eval/mean_reward": float(i)}
        for i in range(3)
    ]
    online = [
        {"time": 9.0 + i, "env_steps": 50 * (i + 1), "gradient_steps": 300 + 50 * i, "eval/mean_reward": 10.0 + i}
        for i in range(2)
    ]
    run = write_run(tmp_path / "both", [*offline, *online])
    np.testing.assert_array_equal(run.series("eval/mean_reward", offline=True).steps, [100, 200, 300])
    np.testing.assert_array_equal(run.returns.steps, [50, 100])
    np.testing.assert_array_equal(run.returns.seconds, [8, 9])
    only = write_run(tmp_path / "only", offline, env=None, dataset="/data/logs.npz")
    assert only.learned_offline_only
    np.testing.assert_array_equal(only.returns.values, [0, 1, 2])
    assert (run.place, only.place) == ("CartPole-v1", "logs")


def test_groups_are_named_by_what_is_special_to_them(tmp_path: Path):
    settings = [{}, {"beta": 3.0}, {"tau": 0.1}, {}]
    for i, config in enumerate(settings):
        write_run(tmp_path / f"{i}", config={"tau": 1.0, **config}, seed=i)
    write_run(tmp_path / "4", algorithm="iql", preset="tuned")
    write_run(tmp_path / "5", env="Pendulum-v1")
    groups = group_runs(find_runs([tmp_path]))
    assert {place: list(labels) for place, labels in groups.items()} == {
        "CartPole-v1": ["awr", "awr, beta=3.0", "awr, tau=0.1", "iql-tuned"],
        "Pendulum-v1": ["awr"],
    }
    assert [run.seed for run in groups["CartPole-v1"]["awr"]] == [0, 3]


def test_values_that_no_majority_has_are_all_named(tmp_path: Path):
    for i, beta in enumerate((0.5, 1.0, 1.0, 2.0)):
        write_run(tmp_path / f"{i}", config={"beta": beta}, seed=i)
    assert list(group_runs(find_runs([tmp_path]))["CartPole-v1"]) == ["awr, beta=0.5", "awr, beta=1.0", "awr, beta=2.0"]


def test_a_setting_that_an_older_run_does_not_have_was_its_default(tmp_path: Path):
    new = {"actor_tau": 1.0, "hidden": [64, 64], "n_critics": 2}
    write_run(tmp_path / "old", algorithm="iql", config={"hidden": [64, 64]})
    write_run(tmp_path / "new", algorithm="iql", config=new, seed=1)
    write_run(tmp_path / "other", algorithm="iql", config={**new, "actor_tau": 0.5}, seed=2)
    groups = group_runs(find_runs([tmp_path]))["CartPole-v1"]
    assert {name: sorted(run.seed for run in runs) for name, runs in groups.items()} == {
        "iql, actor_tau=1.0": [0, 1],
        "iql, actor_tau=0.5": [2],
    }
    write_run(tmp_path / "own", algorithm="of_somebody", config={"beta": 1.0})
    write_run(tmp_path / "own2", algorithm="of_somebody", config={"beta": 1.0, "top": 2}, seed=1)
    assert len(group_runs(find_runs([tmp_path / "own", tmp_path / "own2"]))["CartPole-v1"]) == 2


def test_runs_that_learned_otherwise_from_their_data_are_told_apart(tmp_path: Path):
    data: Any = {"algorithm": "iql", "dataset": "logs.csv", "env": "A-v0", "config": {"tau": 1.0}}
    budget = {"gradient_steps": 1000, "total_timesteps": 50}
    others = [
        {"budget": {"gradient_steps": 9000, "total_timesteps": 50}}, {"env": "B-v0"}, {"reading": {"rewards": "r2"}}
    ]  # fmt: skip
    for i, other in enumerate(others):
        runs = [
            Run(Path(f"{j}"), {**data, "budget": budget, "seed": j, **how}, []) for j, how in enumerate(({}, other))
        ]
        assert len(group_runs(runs)["logs"]) == 2, others[i]
        runs = [
            run._replace(records=[{"time": 0, "env_steps": 9, "gradient_steps": 1, "eval/mean_reward": 1}])
            for run in runs
        ]
        kept = read_runs(write_runs(tmp_path / "kept.json", runs))
        assert len(group_runs(kept)["logs"]) == 2, others[i]
    alone = [{"gradient_steps": n, "total_timesteps": None} for n in (1000, 9000)]
    runs = [Run(Path(f"{i}"), {**data, "budget": own, "seed": i}, []) for i, own in enumerate(alone)]
    assert list(group_runs(runs)["logs"]) == ["iql"], "one of them has only not gone on yet"


def test_the_same_run_twice_is_one_seed(tmp_path: Path):
    for name, later in (("a", [5.0]), ("b", [5.0]), ("c", [6.0]), ("d", [6.0, 7.0]), ("e", [])):
        write_run(tmp_path / name, evaluated([3.0, *later]), seed=1)
    # What went on counts as it is now.
    assert [run.path.name for run in group_runs(find_runs([tmp_path]))["CartPole-v1"]["awr"]] == ["a", "d"]


def test_a_comparison_has_labels_of_its_own(tmp_path: Path):
    (tmp_path / COMPARISON).write_text("{}")
    for seed in range(2):
        write_run(tmp_path / "mine" / "CartPole-v1" / f"{seed}", seed=seed)
    assert list(group_runs(find_runs([tmp_path]))["CartPole-v1"]) == ["mine"]


def told(label: str | None, algorithm: str, seed: int, preset: str | None = None, **config: Any) -> Run:
    spec = {"algorithm": algorithm, "preset": preset, "seed": seed, "env": "CartPole-v1", "config": config}
    return Run(Path(f"{seed}"), spec, [], label)


@pytest.mark.parametrize(
    ("runs", "groups"),
    [
        (
            [*(told("awr", "awr", i, beta=1.0) for i in range(3)), told(None, "awr", 3, beta=5.0)],
            {"awr, beta=1.0": [0, 1, 2], "awr, beta=5.0": [3]},
        ),
        (
            [told("ours", "iql", 0, tau=0.1), told("ours", "awr", 1, tau=0.2), told("ours", "iql", 2, tau=0.1)],
            {"ours, algorithm=iql": [0, 2], "ours, algorithm=awr": [1]},
        ),
        (
            [told("ours", "iql", 0, beta=1.0), told("ours", "iql", 1, beta=2.0), told("ours", "awr", 2, beta=1.0)],
            {"ours, algorithm=iql, beta=1.0": [0], "ours, algorithm=iql, beta=2.0": [1], "ours, algorithm=awr": [2]},
        ),
        (
            [told("awr-tuned", "awr", 0, "tuned"), told(None, "awr", 1, "tuned"), told("awr-tuned", "awr", 2)],
            {"awr-tuned, preset=tuned": [0, 1], "awr-tuned, preset=None": [2]},
        ),
        ([told("mine", "awr", 0, beta=1.0), told("other", "awr", 1, beta=2.0)], {"mine": [0], "other": [1]}),
    ],
)
def test_runs_of_one_name_are_told_apart_by_what_they_are(runs: list[Run], groups: dict[str, list[int]]):
    found = group_runs(runs)["CartPole-v1"]
    assert {name: [run.seed for run in own] for name, own in found.items()} == groups


@pytest.mark.parametrize(
    ("datasets", "places"),
    [
        (["/a/2023/logs.csv", "/a/2024/logs.csv", "/a/2023/logs.csv"], ["2023/logs", "2024/logs"]),
        (["/a/x/logs.csv", "/b/x/logs.csv", "/b/other.csv"], ["a/x/logs", "b/x/logs", "other"]),
        (["/a/logs.csv", "/a/logs.npz"], ["/a/logs.csv", "/a/logs.npz"]),
        (["logs.csv", "/a/logs.csv"], ["logs", "a/logs"]),
        (["cartpole-medium", "/a/cartpole-medium"], ["cartpole-medium", "a/cartpole-medium"]),
    ],
)
def test_data_of_one_name_are_told_apart_by_their_folders(datasets: list[str], places: list[str]):
    runs = [Run(Path("a"), {"algorithm": "bc", "seed": i, "dataset": data}, []) for i, data in enumerate(datasets)]
    assert list(group_runs(runs)) == places


@pytest.fixture(scope="module")
def rliable() -> Any:
    """Return rliable. It needs only arch's bootstrap, whose package imports models that do not know pandas 3."""
    if "arch" not in sys.modules:
        spec = importlib.util.find_spec("arch")
        assert spec is not None
        sys.modules["arch"] = types.ModuleType("arch")
        sys.modules["arch"].__path__ = list(spec.submodule_search_locations or [])
    return types.SimpleNamespace(
        library=importlib.import_module("rliable.library"), metrics=importlib.import_module("rliable.metrics")
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 10, 13])
def test_the_interquartile_mean_is_rliable_s(rliable: Any, n: int):
    scores = RNG.normal(size=(n, 3))
    for task, value in enumerate(interquartile_mean(scores)):
        assert value == pytest.approx(rliable.metrics.aggregate_iqm(scores[:, task]), abs=1e-6)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 8), (10, 4)])
def test_the_probability_of_improvement_is_rliable_s(rliable: Any, n: int, m: int):
    # Whole numbers, so that there are ties.
    better, worse = RNG.integers(0, 6, (n, 4)).astype(float), RNG.integers(0, 6, (m, 4)).astype(float)
    found = probability_of_improvement(list(better.T), list(worse.T))
    assert found == pytest.approx(rliable.metrics.probability_of_improvement(better, worse), abs=1e-6)
    brute = [[(x > y) + (x == y) / 2 for x in xs for y in ys] for xs, ys in zip(better.T, worse.T, strict=True)]
    assert found == pytest.approx(np.mean([np.mean(pairs) for pairs in brute]))


def test_the_interval_is_rliable_s_for_the_same_draws(rliable: Any):
    scores = RNG.normal(size=(10, 1))
    np.random.seed(7)
    theirs = rliable.library.StratifiedBootstrap(scores).conf_int(
        lambda drawn: np.array([rliable.metrics.aggregate_iqm(drawn)]), reps=500, size=0.95, method="percentile"
    )
    np.random.seed(7)
    drawn = np.array([data[0] for data, _ in rliable.library.StratifiedBootstrap(scores).bootstrap(500)])
    assert drawn.shape == (500, 10, 1)
    ours = interval(interquartile_mean(np.moveaxis(drawn, 1, 0)))
    np.testing.assert_allclose(np.array(ours), theirs, atol=1e-6)


def test_bootstrap_samples_draw_whole_runs_with_replacement():
    scores = np.arange(20.0).reshape(5, 4)
    drawn = resample(scores, n=300, seed=3)
    assert drawn.shape == (300, 5, 4)
    assert set(map(tuple, drawn.reshape(-1, 4))) == set(map(tuple, scores))
    assert any(len(set(sample[:, 0])) < 5 for sample in drawn)
    counts = np.array([(drawn[..., 0] == first).mean() for first in scores[:, 0]])
    np.testing.assert_allclose(counts, 0.2, atol=0.05)


def test_an_estimate_is_the_interval_of_its_own_draws_and_of_one_run_has_none():
    scores = RNG.normal(size=6)
    found = estimate(scores)
    statistics = [interquartile_mean(sample) for sample in resample(scores[:, None])[..., 0]]
    assert len(statistics) == N_DRAWS
    np.testing.assert_allclose(found, [interquartile_mean(scores), *np.percentile(statistics, [2.5, 97.5])], atol=1e-12)
    assert np.isnan(estimate([3.0])[1:]).all()
    assert estimate([3.0]).value == 3


def test_an_improvement_has_an_interval_around_it():
    found = improvement([np.arange(5.0) + 2], [np.arange(5.0)])
    assert 0.5 < found.low < found.value < found.high <= 1
    assert np.isnan(improvement([[1.0]], [[0.0, 2.0]]).low)


def test_a_curve_is_what_brute_force_finds_at_each_step_all_runs_have_been_at(tmp_path: Path):
    lengths, every = (12, 9, 7), (1000, 1500, 2000)
    runs = [
        write_run(tmp_path / f"{i}", records_of(n, every=step, eval__mean_reward=list(RNG.normal(size=n))))
        for i, (n, step) in enumerate(zip(lengths, every, strict=True))
    ]
    found = curve([*runs, write_run(tmp_path / "later")])
    first, last = max(every), min(n * step for n, step in zip(lengths, every, strict=True))
    steps = sorted({r["env_steps"] for run in runs for r in run.records if first <= r["env_steps"] <= last})
    np.testing.assert_array_equal(found.steps, steps)
    for i, step in enumerate(steps):
        scores = [
            [record["eval/mean_reward"] for record in run.records if record["env_steps"] <= step][-1] for run in runs
        ]
        np.testing.assert_allclose([found.value[i], found.low[i], found.high[i]], estimate(scores))
    np.testing.assert_array_equal(curve(runs, bounds=False).value, found.value)
    assert np.isnan(curve(runs, bounds=False).low).all()


def test_a_curve_of_many_records_has_a_few_of_their_steps_both_ends_among_them(tmp_path: Path):
    run = write_run(tmp_path / "run", records_of(1000, every=10, eval__mean_reward=lambda i: float(i)))
    found = curve([run])
    assert len(found.steps) == MOST_STEPS
    assert (found.steps[0], found.steps[-1], found.value[-1]) == (10, 10_000, 999)
    assert not len(curve([]).steps)


def test_where_a_run_first_reached_a_threshold(tmp_path: Path):
    run = write_run(tmp_path / "run", evaluated([1.0, 5.0, 2.0, 9.0]))
    assert reached(run, 5) == (2000, 20)
    assert reached(run, 6) == (4000, 40)
    assert reached(run, 10) is None


@pytest.mark.long
def test_runs_of_a_trainer_read_back_as_what_it_reported(tmp_path: Path):
    from rlox import Trainer

    told: list[dict[str, float]] = []
    config = {"hidden": 8, "batch_size": 16, "learning_starts": 20}
    with Trainer("awr", "CartPole-v1", config=config, seed=3, logger=told.append, run_dir=tmp_path / "run") as trainer:
        trainer.train(120, log_interval=40, eval_interval=60, n_eval_episodes=1)
    (run,) = find_runs([tmp_path])
    assert (run.seed, run.place, run.spec["config"]["hidden"]) == (3, "CartPole-v1", 8)
    for name in ("actor/loss", "critic/loss", "eval/mean_reward", "time/env_steps_per_second"):
        pairs = [(record["env_steps"], record[name]) for record in told if name in record]
        np.testing.assert_array_equal(np.array(run.series(name)[:2]).T, pairs)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 3


KEPT = {"path": "a/b/0", "label": "a", "spec": {"algorithm": "awr"}, "records": []}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"records": [1]}, "a record is not a table"),
        ({"records": {"time": 1}}, "a record is not a table"),
        ({"label": [1]}, "its label is not a name"),
        ({"spec": {"algorithm": 1}}, "it does not name an algorithm"),
        ({"path": 3}, "PathLike"),
    ],
)
def test_a_file_that_is_not_one_of_kept_runs_is_said_in_one_line(tmp_path: Path, changes: dict[str, Any], told: str):
    (tmp_path / "kept.json").write_text(json.dumps({"runs": [{**KEPT, **changes}]}))
    with pytest.raises(
        ConfigError, match=rf"kept.json' holds no runs \(.*{told}.*\): name the folder of a run"
    ) as caught:
        find_runs([tmp_path / "kept.json"])
    assert "\n" not in str(caught.value)


def test_kept_records_without_their_steps_are_left_out_as_those_of_a_folder_are(tmp_path: Path):
    whole = {"time": 1.0, "env_steps": 10, "gradient_steps": 0, "eval/mean_reward": 5.0}
    before = {"time": 2.0, "env_steps": 20, "eval/mean_reward": 6.0}
    kept = {**KEPT, "records": [{}, {**whole, "env_steps": "1"}, {**whole, "time": None}, whole, before]}
    (tmp_path / "kept.json").write_text(json.dumps({"runs": [kept]}))
    (run,) = find_runs([tmp_path / "kept.json"])
    assert run.records == [whole, {**before, "gradient_steps": 0}]
    assert run.returns.values.tolist() == [5, 6]


def test_before_its_first_evaluation_a_run_has_no_returns_if_there_will_be_some(tmp_path: Path):
    train = records_of(2, rollout__episode_return=20.0)
    planned = write_run(tmp_path / "a", train, budget={"eval_interval": 5_000})
    assert (planned.return_name, len(planned.returns.steps)) == ("eval/mean_reward", 0)
    without = write_run(tmp_path / "b", train, budget={"eval_interval": None})
    assert without.returns.values.tolist() == [20, 20]


@pytest.mark.parametrize(
    ("budget", "n_returns"),
    [
        ({"total_timesteps": 2_000}, 2),
        ({"total_timesteps": 3_000}, 0),
        ({"total_timesteps": 2_000, "gradient_steps": 5_000}, 0),
    ],
)
def test_a_run_that_is_over_and_was_never_evaluated_has_the_returns_of_training(
    tmp_path: Path, budget: dict[str, int], n_returns: int
):
    train = [*records_of(2, rollout__episode_return=20.0)]
    run = write_run(tmp_path / "a", train, budget={"eval_interval": 5_000, **budget})
    assert len(run.returns.steps) == n_returns
    (kept,) = find_runs([write_runs(tmp_path / "kept.json", [run])])
    assert kept.returns.values.tolist() == run.returns.values.tolist()


def test_steps_of_returns_are_gradient_steps_until_one_is_known_of_the_environment(tmp_path: Path):
    offline = [{**record, "env_steps": 0} for record in evaluated([1.0, 2.0])]
    online = records_of(3, actor__loss=1.0)
    run = write_run(tmp_path / "run", [*offline, *online])
    assert run.learned_offline("eval/mean_reward")
    assert run.returns.steps.tolist() == [0, 1000]
    append(run.path, {**online[-1], "env_steps": 4000, "eval/mean_reward": 3.0})
    run = read_run(run.path)
    assert not run.learned_offline("eval/mean_reward")
    assert run.returns.steps.tolist() == [4000]
