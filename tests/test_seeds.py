"""Seeds at once: each run of a program ends as it does alone, and leaves the same behind."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from rlox import ALGORITHMS, Algorithm, Dataset, RunSpec, Trainer
from rlox.assemble import make_learner
from rlox.cli import main
from rlox.compare import run_jobs
from rlox.core import together
from rlox.data.reading import Reading
from rlox.errors import ConfigError, DatasetError, DivergedError
from rlox.groups import at_once
from rlox.plan import Plan
from rlox.processes import Processes, is_finished
from rlox.regression import RegressionLearner
from rlox.runs.history import find_runs
from rlox.runs.interrupts import Interrupted
from rlox.seeds import open_runs, train_offline_seeds, train_together
from rlox.spec import Budget

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16, "learning_rate": 1e-3}
pytestmark = pytest.mark.filterwarnings("ignore:replay_share=0")  # these data hold all there is to do

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: SMALL for name, found in ALGORITHMS.items() if isinstance(found, Algorithm)},
    "awr in rounds": {**SMALL, "rollout_steps": 64, "n_critic_updates": 5, "n_actor_updates": 5, "td_lambda": 0.9},
    "marwil": {**SMALL, "n_critic_updates": 5, "n_actor_updates": 5},
    "mpo": {**SMALL, "n_states": 16},
    "iql whitened": {**SMALL, "normalize_obs": True, "max_grad_norm": 0.5, "actor_decay_steps": 40},
}
TOLERANCE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-5}
"""Products of several runs may add their terms in another order: 1e-7 of a value, which 25 steps of Adam can make a
thousand times as large where a gradient is nearly 0."""
BUDGET = Budget(gradient_steps=25, log_interval=10, checkpoint_interval=10)


@pytest.fixture(scope="module")
def data() -> dict[str, Dataset]:
    return {name: Dataset.load(name)[:2_000] for name in ("cartpole-random", "pendulum-random")}


def spec_of(case: str, budget: Budget = BUDGET, **settings: Any) -> RunSpec:
    return RunSpec.resolve(case.split()[0], config={**SETTINGS[case], **settings}, budget=budget)


def alone(spec: RunSpec, dataset: Any, run_dir: Path | None = None) -> Trainer:
    trainer = Trainer.from_spec(spec, dataset=dataset, run_dir=run_dir)
    trainer.train_offline(progress=False)
    return trainer


def assert_equal(found: Trainer, wanted: Trainer) -> None:
    """Networks, optimisers, keys and counters of two trainers are the same."""
    states = [each.state._replace(key=jax.random.key_data(each.state.key)) for each in (found, wanted)]
    for ours, theirs in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)


def test_the_settings_have_every_algorithm_of_ours():
    assert {case.split()[0] for case in SETTINGS} == {
        name for name, found in ALGORITHMS.items() if isinstance(found, Algorithm)
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "name"), list(zip(SETTINGS, itertools.cycle(["cartpole-random", "pendulum-random"]), strict=False))
)
def test_each_seed_ends_as_its_own_run_does(case: str, name: str, data: dict[str, Dataset]):
    spec = spec_of(case)
    found = train_offline_seeds(spec, [5, 2], dataset=data[name], progress=False)
    assert [trainer.spec.seed for trainer in found] == [5, 2]
    for trainer in found:
        own = alone(dataclasses.replace(spec, seed=trainer.spec.seed), data[name])
        assert trainer.gradient_steps == own.gradient_steps >= 25
        assert_equal(trainer, own)
        for metric, value in own.last_metrics.items():
            if not metric.startswith("time/"):
                np.testing.assert_allclose(trainer.last_metrics[metric], value, rtol=1e-3, atol=1e-5, err_msg=metric)
    first, second = (jax.tree.leaves(trainer.state.actor) for trainer in found)
    assert not np.allclose(first[0], second[0], rtol=1e-2)


def table() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"observations": rng.random(40), "actions": np.arange(40) % 2, "rewards": rng.random(40),
            "terminals": np.arange(40) % 8 == 7}  # fmt: skip


@pytest.mark.parametrize("kind", [dict, pd.DataFrame])
def test_columns_and_frames_are_learned_from_too(kind: Any):
    spec = dataclasses.replace(spec_of("bc"), dataset="cartpole-random")
    (found,) = train_offline_seeds(spec, [1], dataset=kind(table()), progress=False)
    assert found.spec.dataset is None, "it is not what the spec names"
    assert_equal(found, alone(found.spec, kind(table())))
    with pytest.raises(DatasetError):
        train_offline_seeds(spec, [1], dataset=kind())


@pytest.mark.long
@pytest.mark.parametrize("in_turn", [False, True], ids=["vmapped", "in turn"])
def test_a_sweep_ends_as_its_settings_do_alone(
    in_turn: bool, data: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(together, "IN_TURN", 0 if in_turn else 10**9)
    together.compile_together.cache_clear()
    dataset, spec = data["pendulum-random"], spec_of("iql")
    assert together.take_turns(spec.config) == (in_turn and jax.default_backend() == "cpu")
    lists = {"beta": [0.1, 2.0], "learning_rate": [1e-3, 1e-2], "expectile": np.array([0.6, 0.9])}
    found = train_offline_seeds(spec, [1], config={**lists, "gamma": 0.9, "tau": np.array(0.1)}, dataset=dataset)
    told: list[Any] = [trainer.spec.config for trainer in found]
    assert [(own.beta, own.learning_rate, own.expectile) for own in told] == [
        (beta, rate, expectile) for beta in (0.1, 2.0) for rate in (1e-3, 1e-2) for expectile in (0.6, 0.9)
    ]
    assert {(own.gamma, own.tau) for own in told} == {(0.9, 0.1)}
    for trainer in found[::3]:
        assert_equal(trainer, alone(trainer.spec, dataset))
    weights = [jax.tree.leaves(trainer.state.actor)[0] for trainer in found]
    assert all(not np.allclose(a, b, rtol=1e-4) for a, b in itertools.combinations(weights, 2))


@pytest.mark.long
@pytest.mark.parametrize("name", ["cartpole-random", "pendulum-random"])
@pytest.mark.parametrize("case", SETTINGS)
def test_products_keep_their_float32_on_accelerators(case: str, name: str, data: dict[str, Dataset]):
    bounded: dict[str, Any] = {"anchor_tau": 0.005, "anchor_coef": 1.0} if case == "mpo" else {}
    spec = spec_of(case, **bounded)
    learner = make_learner(spec, None, data[name])
    assert isinstance(learner, RegressionLearner)
    program: Any = together.compile_together(learner.algorithm, learner.config)
    products = re.findall(r"dot_general.*", program.lower([learner.state.train], {}, learner.data, 1).as_text())
    assert len(products) >= (3 if spec.algorithm == "bc" else 9)
    assert [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line] == []


@pytest.mark.long
def test_other_numbers_are_swept_too(data: dict[str, Dataset]):
    lists = {"momentum": [0.0, 0.8], "max_advantage": [0.5, 2.0], "critic_learning_rate": [1e-3, 1e-2]}
    found = train_offline_seeds(spec_of("iql", optimizer="sgd"), [1], config=lists, dataset=data["pendulum-random"])
    for trainer in (found[0], found[-1]):
        assert_equal(trainer, alone(trainer.spec, data["pendulum-random"]))
    weights = [jax.tree.leaves(trainer.state.actor)[0] for trainer in found]
    assert all(not np.allclose(a, b, rtol=1e-4) for a, b in itertools.combinations(weights, 2))


@pytest.mark.parametrize(
    ("seeds", "config", "told"),
    [
        ([], {}, "seeds is empty: name one or more"),
        ([3, 3], {}, "seeds has 3 twice"),
        ([-1], {}, "seeds has -1: each must be a whole number"),
        ([1.5], {}, "seeds has 1.5: each must be a whole number"),
        (5, {}, "seeds=5 must be a list"),
        ([1], {"beta": []}, "beta is an empty list"),
        ([1], {"beta": [1.0, 1]}, "beta has 1 twice in its list"),
        ([1], {"beta": [1.0, -2.0]}, "beta=-2.0 is out of range"),
        ([1], {"beta": [1.0, "x"]}, "beta has 'x' in its list, whose values must be numbers"),
        ([1], {"actor_learning_rate": [None, 1e-3]}, "actor_learning_rate has None in its list"),
        ([1], {"bata": [1.0, 2.0]}, "'bata' is not a setting of iql. Did you mean 'beta'?"),
        (
            [1],
            {"hidden": [8, 16]},
            "hidden cannot be a list, since networks, optimisers or what is adapted begin with it",
        ),
        ([1], {"batch_size": [8, 16]}, "batch_size cannot be a list, since it is a whole number"),
        ([1], {"max_grad_norm": [0.5, 1.0]}, "max_grad_norm cannot be a list, since networks, optimisers"),
        ([1], {"normalize_obs": [True, False]}, "normalize_obs cannot be a list"),
        ([1], {"entropy_coef": [0.0, 0.1]}, "entropy_coef cannot be a list here, since the algorithm decides"),
    ],
)
def test_what_cannot_be_is_one_line(seeds: Any, config: Any, told: str, data: dict[str, Dataset]):
    with pytest.raises(ConfigError) as error:
        train_offline_seeds(spec_of("iql"), seeds, config=config, dataset=data["pendulum-random"])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_what_does_not_learn_from_data_is_refused(data: dict[str, Dataset]):
    dataset = data["cartpole-random"]
    with pytest.raises(ConfigError, match="train_offline_seeds is not there for ppo"):
        train_offline_seeds(RunSpec.resolve("ppo", budget=BUDGET), [1], dataset=dataset)
    with pytest.raises(ConfigError, match="gradient_steps is not given"):
        train_offline_seeds(spec_of("bc", Budget()), [1], dataset=dataset)
    with pytest.raises(ConfigError, match="there are no data"):
        train_offline_seeds(spec_of("bc"), [1])
    with pytest.raises(ConfigError, match="eval_interval needs an environment"):
        train_offline_seeds(spec_of("bc", dataclasses.replace(BUDGET, eval_interval=5)), [1], dataset=dataset)


def without_clock(file: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        {name: x for name, x in record.items() if name != "time" and not name.startswith("time/")} for record in records
    ]


def assert_same_folder(found: Path, wanted: Path) -> None:
    """Two run folders hold the same files, records and arrays, but for their times."""
    names = [sorted(p.name.split(".")[0] + p.suffix for p in folder.rglob("*")) for folder in (found, wanted)]
    assert names[0] == names[1]
    for ours, theirs in zip(*(without_clock(folder / "metrics.jsonl") for folder in (found, wanted)), strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose([x for x in ours.values() if x is not None],
                                   [x for x in theirs.values() if x is not None], **TOLERANCE)  # fmt: skip
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (found, wanted))
    assert {**ours, "versions": None} == {**theirs, "versions": None}
    assert_equal(Trainer.load(found), Trainer.load(wanted))


@pytest.mark.long
def test_each_leaves_a_folder_like_that_of_its_own_run(tmp_path: Path):
    budget = dataclasses.replace(BUDGET, eval_interval=10, n_eval_episodes=1)
    spec = dataclasses.replace(spec_of("iql", budget), dataset="cartpole-random", env="CartPole-v1")
    for trainer in train_offline_seeds(spec, [0, 1], config={"beta": [0.5]}, run_dir=tmp_path / "at once"):
        assert trainer.run_dir == tmp_path / "at once" / str(trainer.spec.seed)
        folder = tmp_path / "alone" / str(trainer.spec.seed)
        trainer.close()
        alone(trainer.spec, None, folder).close()
        assert_same_folder(tmp_path / "at once" / folder.name, folder)


@pytest.mark.long
@pytest.mark.parametrize("case", ["iql", "awr in rounds"])
def test_each_goes_on_in_an_environment_as_its_own_run_does(case: str, data: dict[str, Dataset]):
    spec = dataclasses.replace(spec_of(case, buffer_size=3_000), env="CartPole-v1")
    found = train_offline_seeds(spec, [0, 1, 2], dataset=data["cartpole-random"], progress=False)
    for trainer in reversed(found):
        own = alone(trainer.spec, data["cartpole-random"])
        for each in (trainer, own):
            each.train(130, progress=False)
        assert trainer.env_steps == own.env_steps >= 130
        assert_equal(trainer, own)


@pytest.mark.long
def test_the_data_are_in_memory_once_from_the_start(tmp_path: Path):
    spec = dataclasses.replace(spec_of("iql"), dataset="cartpole-random")
    for _ in ("new", "continued"):
        runs = open_runs([dataclasses.replace(spec, seed=seed) for seed in (0, 1)], [tmp_path / "0", tmp_path / "1"])
        first, second = (trainer._ours("", "").data for trainer in runs)
        assert all(a is b for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
        train_together(runs, progress=False)
        for trainer in runs:
            trainer.close()


@pytest.mark.long
def test_the_runs_of_a_sweep_are_named_by_what_differs(tmp_path: Path, data: dict[str, Dataset]):
    spec = dataclasses.replace(spec_of("bc"), dataset="cartpole-random")
    for trainer in train_offline_seeds(spec, [0], config={"learning_rate": [1e-3, 2e-3]}, run_dir=tmp_path):
        trainer.close()
    assert [run.path for run in find_runs([tmp_path])] == [tmp_path / f"learning_rate=0.00{i}" / "0" for i in (1, 2)]


@pytest.mark.long
def test_a_longer_budget_goes_on_with_what_is_there(tmp_path: Path):
    spec = dataclasses.replace(spec_of("iql"), dataset="cartpole-random")
    for trainer in train_offline_seeds(spec, [0, 1], run_dir=tmp_path):
        trainer.close()
    longer = dataclasses.replace(spec, budget=dataclasses.replace(BUDGET, gradient_steps=40))
    # Seed 2 begins where the others are at 25 steps.
    for trainer in train_offline_seeds(longer, [0, 1, 2], run_dir=tmp_path):
        assert trainer.gradient_steps == 40
        assert_equal(trainer, alone(trainer.spec, None))
        trainer.close()
    with pytest.raises(ConfigError, match=r"has a run with gamma=0.99, not 0.5"):
        train_offline_seeds(longer, [0], config={"gamma": 0.5}, run_dir=tmp_path)


def test_a_file_is_the_same_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Dataset.from_arrays(table()).save(tmp_path / "logs.npz")
    monkeypatch.chdir(tmp_path)
    for name in ("logs.npz", "./logs.npz", str(tmp_path / "logs.npz")):
        spec = dataclasses.replace(spec_of("bc"), dataset=name)
        (trainer,) = train_offline_seeds(spec, [0], run_dir=tmp_path / "runs", progress=False)
        assert trainer.spec.dataset == str(tmp_path / "logs.npz")
        trainer.close()


@pytest.mark.long
def test_seconds_are_shared_by_the_runs_that_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rlox import seeds

    advance, now = seeds._Group._advance, [0.0]

    def timed(group: Any, *args: Any) -> None:
        advance(group, *args)
        now[0] += 6.0

    def read() -> float:
        now[0] += 1e-9
        return now[0]

    def seconds(spec: RunSpec, *seeds: int) -> list[float]:
        found = train_offline_seeds(spec, seeds, run_dir=tmp_path)
        for trainer in found:
            trainer.close()
        return [trainer.last_metrics["time/seconds"] for trainer in found]

    monkeypatch.setattr(seeds, "time", SimpleNamespace(perf_counter=read))
    monkeypatch.setattr(seeds._Group, "_advance", timed)
    spec = dataclasses.replace(spec_of("bc"), dataset="cartpole-random")
    assert seconds(spec, 0, 1) == pytest.approx([now[0] / 2] * 2)
    before = now[0]
    # Two of them have nothing left to do.
    assert seconds(spec, 0, 1, 2) == pytest.approx([before / 2, before / 2, now[0] - before])
    longer = dataclasses.replace(spec, budget=dataclasses.replace(BUDGET, gradient_steps=40))
    # The last one has more to do than the others, and ends alone.
    assert sum(seconds(longer, 0, 1, 2, 3)) == pytest.approx(now[0])


def test_a_signal_ends_all_of_them_saved_and_the_same_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rlox import seeds

    spec = dataclasses.replace(spec_of("iql"), dataset="cartpole-random")
    advance = seeds._Group._advance

    def signalled(group: Any, *args: Any) -> None:
        advance(group, *args)
        if group._learners[0].counters.gradient_steps == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(seeds._Group, "_advance", signalled)
    with pytest.raises(Interrupted, match=r"Stopped 2 runs at step 20 and saved. The same call") as error:
        train_offline_seeds(spec, [0, 1], run_dir=tmp_path)
    monkeypatch.setattr(seeds._Group, "_advance", advance)
    assert error.value.number == signal.SIGTERM
    for seed in (0, 1):
        with Trainer.load(tmp_path / str(seed)) as trainer:
            assert trainer.gradient_steps == 20
    for trainer in train_offline_seeds(spec, [0, 1], run_dir=tmp_path):
        assert trainer.gradient_steps == 25
        assert_equal(trainer, alone(trainer.spec, None))
        trainer.close()


def test_an_error_in_the_middle_leaves_all_of_them_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rlox import seeds

    spec = dataclasses.replace(spec_of("iql"), dataset="cartpole-random")
    advance = seeds._Group._advance

    def broken(group: Any, *args: Any) -> None:
        if group._learners[0].counters.gradient_steps >= 15:
            raise RuntimeError("out of memory")
        advance(group, *args)

    monkeypatch.setattr(seeds._Group, "_advance", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_offline_seeds(spec, [0, 1], run_dir=tmp_path)
    with Trainer.load(tmp_path / "1") as trainer:
        assert 15 <= trainer.gradient_steps <= 20


@pytest.mark.long
def test_one_that_diverges_does_not_stop_the_others(tmp_path: Path):
    spec = dataclasses.replace(spec_of("iql"), dataset="cartpole-random")
    with pytest.raises(
        DivergedError, match=r"1 of 2 runs failed, the first 'learning_rate=1e\+30/0': Training"
    ) as error:
        train_offline_seeds(spec, [0], config={"learning_rate": [1e30, 1e-3]}, run_dir=tmp_path)
    assert "The others are in" in str(error.value)
    with Trainer.load(tmp_path / "learning_rate=0.001" / "0") as trainer:
        assert trainer.gradient_steps == 25
        assert_equal(trainer, alone(trainer.spec, None))


def test_progress_is_that_of_all(capsys: pytest.CaptureFixture[str], data: dict[str, Dataset]):
    train_offline_seeds(spec_of("bc"), [0, 1, 2], dataset=data["cartpole-random"], progress=True)
    told = capsys.readouterr().err
    assert "3 runs | 75/75 steps" in told
    assert "actor loss" in told


# Comparisons

PLAN = Plan({"bc": {}}, (), ["cartpole-random"], [0, 1, 2], {
    "hidden": 8, "batch_size": 16, "gradient_steps": 40, "eval_interval": 20, "n_eval_episodes": 1, "log_interval": 20,
})  # fmt: skip


def test_seeds_are_together_as_far_as_cores_stay_busy(tmp_path: Path):
    plan = PLAN._replace(settings={"bc": {}, "iql": {}}, seeds=range(5))
    offline = plan.jobs(tmp_path)

    def seeds(jobs: list[Any], n_cores: int) -> list[tuple[str, list[int]]]:
        return [(group[0].label, [job.spec.seed for job in group]) for group in at_once(jobs, n_cores)]

    assert seeds(offline, 1) == [("bc", [0, 1, 2, 3, 4]), ("iql", [0, 1, 2, 3, 4])]
    assert seeds(offline, 3) == [("bc", [0, 2, 4]), ("iql", [0, 2, 4]), ("bc", [1, 3]), ("iql", [1, 3])]
    assert seeds(offline, 10) == [(job.label, [job.spec.seed]) for job in offline]
    assert at_once([], 2) == []
    online = Plan({"bc": {}}, ["CartPole-v1"], (), [0, 1], {"total_timesteps": 40}).jobs(tmp_path)
    assert seeds(online, 1) == [("bc", [0]), ("bc", [1])]
    # Of the same settings under two labels, each is a line of its own.
    twice = plan._replace(settings={"a": {"algorithm": "bc"}, "b": {"algorithm": "bc"}}).jobs(tmp_path)
    assert [label for label, _ in seeds(twice, 1)] == ["a", "b"]


def test_a_specification_is_the_one_that_its_file_was_made_of():
    reading = Reading(observations=("x", "v"), action_low=(-1.0,), action_high=(1.0,))
    spec = RunSpec.resolve("iql", config={"hidden": (8, 4), "beta": 0.25}, dataset="logs.npz", reading=reading, seed=7)
    assert RunSpec.from_toml(spec.to_toml()) == spec
    longer = dataclasses.replace(spec, budget=dataclasses.replace(BUDGET, checkpoint_minutes=None), preset="paper")
    assert RunSpec.from_toml(longer.to_toml()) == longer
    with pytest.raises(ConfigError, match="This is not the specification of a run"):
        RunSpec.from_toml("seed = 3")


@pytest.mark.long
def test_a_comparison_learns_seeds_at_once_and_leaves_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    together, apart = tmp_path / "together", tmp_path / "apart"
    jobs = PLAN.jobs(together)
    outcome = run_jobs(jobs, together, engine=Processes([0]))
    assert (outcome.finished, outcome.failures) == (jobs, [])
    assert all(is_finished(job) for job in jobs)
    (alone,) = PLAN._replace(seeds=[2]).jobs(apart)
    assert run_jobs([alone], apart, engine=Processes([0])).finished == [alone]
    assert_same_folder(jobs[2].folder, alone.folder)
    for suffix in (".toml", ".log", ".finished"):
        assert jobs[2].folder.with_suffix(suffix).exists()
    assert jobs[2].folder.with_suffix(".toml").read_text() == alone.folder.with_suffix(".toml").read_text()
    logs = [job.folder.with_suffix(".log").read_text() for job in (jobs[2], alone)]
    for told in ("Learned from cartpole-random: 40 gradient steps", "Saved to", "Curves: "):
        assert all(told in log for log in logs)
    main(["compare", str(together)])
    assert "| cartpole-random | bc | 3 |" in " ".join(capsys.readouterr().out.split())


@pytest.mark.long
def test_of_seeds_at_once_those_that_fail_are_named(tmp_path: Path):
    plan = PLAN._replace(settings={"iql": {}}, shared={**PLAN.shared, "learning_rate": 1e30})
    jobs = plan.jobs(tmp_path)
    outcome = run_jobs(jobs, tmp_path, engine=Processes([0]))
    assert [failure.job for failure in outcome.failures] == jobs
    assert all("Training diverged" in failure.why for failure in outcome.failures)
