"""Offline runs that are learned at once: one program over the same data, with a state for each run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
import typing
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlox.algorithms import find_algorithm
from rlox.algorithms.others import only_ours
from rlox.assemble import named
from rlox.core.algorithm import Algorithm
from rlox.core.config import Settings, make_config
from rlox.core.together import compile_together, learn_alone, with_numbers
from rlox.data.dataset import DatasetLike, make_dataset
from rlox.envs.envs import EnvLike
from rlox.errors import ConfigError, RloxError
from rlox.loop import training
from rlox.regression import RegressionLearner, next_chunk
from rlox.runs import checkpoint
from rlox.runs.interrupts import Interrupted, Interrupts
from rlox.runs.progress import Progress
from rlox.spec import RunSpec
from rlox.trainer import Metrics, Trainer

Loop = Generator[int, None, Metrics]


def train_offline_seeds(
    spec: RunSpec,
    seeds: Iterable[int],
    *,
    config: Mapping[str, Any] | None = None,
    env: EnvLike | None = None,
    dataset: DatasetLike | None = None,
    run_dir: str | Path | None = None,
    progress: bool | None = None,
) -> list[Trainer]:
    """Learn one run a seed from the same data, all of them in one program.

    Each run ends as ``Trainer.from_spec(spec).train_offline()`` with its seed does, up to the rounding of float32: it
    has its own networks, minibatches and random numbers. Its seconds are its share of those of all.

    Args:
        spec: the run; ``spec.budget.gradient_steps`` says how long. Its seed is replaced.
        seeds: one or more, each once.
        config: settings that take the place of the spec's. A list of numbers is a sweep: there is a run for each value
            with each seed, and of several lists for all combinations. The settings that a state is made with (networks,
            optimiser) cannot be lists, nor can whole numbers, names or flags.
        env: where to evaluate, in place of the one that the spec names.
        dataset: what to learn from, in place of what the spec names.
        run_dir: folder for a run's folder each, ``SEED`` or ``beta=0.5/SEED``. What was saved there goes on. None
            writes nothing.
        progress: as in ``Trainer.train``.

    Returns:
        A trainer a run, one value after another and for each the seeds in order; ``trainer.spec`` says which it is.

    Raises:
        ConfigError: no seeds or one twice, a setting that cannot be a list, an algorithm that does not learn from data,
            no data or no number of steps.
        DivergedError: a loss or a parameter of a run is no longer finite; the other runs are finished before.
    """
    specs = specs_of(spec, seeds, config or {}, dataset)
    folders = [None] * len(specs) if run_dir is None else [Path(run_dir) / _name(each, specs) for each in specs]
    with contextlib.ExitStack() as opened:
        trainers = [opened.enter_context(each) for each in open_runs(specs, folders, env=env, dataset=dataset)]
        ended = train_together(trainers, progress)
        failed = [(each, error) for each, error in zip(specs, ended, strict=True) if isinstance(error, RloxError)]
        if failed:
            which, error = failed[0]
            n = f"{len(failed)} of {len(specs)} runs failed" if len(specs) > 1 else "The run failed"
            kept = "" if run_dir is None or len(failed) == len(specs) else f" The others are in '{run_dir}'."
            raise type(error)(f"{n}, the first '{_name(which, specs)}': {error}{kept}")
        opened.pop_all()
    return trainers


def specs_of(
    spec: RunSpec, seeds: Iterable[int], config: Mapping[str, Any], dataset: DatasetLike | None = None
) -> list[RunSpec]:
    """Return the runs of seeds and of settings that may be lists, as ``train_offline_seeds`` takes them."""
    name, algorithm = find_algorithm(spec.algorithm)
    if not isinstance(algorithm, Algorithm):
        raise only_ours("train_offline_seeds", name, "it learns from an environment only")
    if spec.budget.gradient_steps is None or (spec.dataset is None and dataset is None):
        what = "gradient_steps is not given" if spec.budget.gradient_steps is None else "there are no data"
        raise ConfigError(
            f"train_offline_seeds: {what}: say how long, Budget(gradient_steps=20_000) in the RunSpec, and from what, "
            "dataset='logs.npz'."
        )
    seeds = check_seeds(seeds)
    lists = {
        key: list(values)
        for key, values in config.items()
        if isinstance(values, list) or (isinstance(values, np.ndarray) and values.ndim)
    }
    shared = _with(spec, {key: value for key, value in config.items() if key not in lists})
    for key, values in lists.items():
        _check_list(shared.config, name, key, values)
    combinations = [dict(zip(lists, own, strict=True)) for own in itertools.product(*lists.values())]
    source = spec.dataset if dataset is None else named(dataset)
    return [
        dataclasses.replace(_with(shared, own), seed=seed, dataset=source) for own in combinations for seed in seeds
    ]


def _with(spec: RunSpec, settings: Mapping[str, Any]) -> RunSpec:
    """Return a run with other settings, which are checked."""
    values = {**dataclasses.asdict(spec.config), **settings}
    return dataclasses.replace(spec, config=make_config(type(spec.config), spec.algorithm, values))


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """Return seeds as a list.

    Raises:
        ConfigError: none, one twice, or something that is no seed.
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ConfigError(f"seeds={seeds!r} must be a list of whole numbers from 0 on, such as range(5).")
    found = [int(seed) if isinstance(seed, np.integer) else seed for seed in seeds]
    if not found:
        raise ConfigError("seeds is empty: name one or more, such as range(5).")
    for i, seed in enumerate(found):
        if type(seed) is not int or seed < 0:
            raise ConfigError(f"seeds has {seed!r}: each must be a whole number of at least 0.")
        if seed in found[:i]:
            raise ConfigError(f"seeds has {seed} twice: both runs would be the same. Name each seed once.")
    return found


def _check_list(config: Settings, algorithm: str, name: str, values: Sequence[Any]) -> None:
    """Refuse a list of what cannot differ between the runs of a program."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    if name not in fields:
        make_config(type(config), algorithm, {name: values})  # It says so.
    field = fields[name]
    hint = typing.get_type_hints(type(config))[name]
    instead = "compare its values in separate programs, by `rlox compare --config`."
    if field.metadata.get("fixed") or float not in (hint, *typing.get_args(hint)):
        why = (
            "networks, optimisers or what is adapted begin with it"
            if field.metadata.get("fixed")
            else "it is not a number"
        )
        why = "it is a whole number, which the program is made with" if hint is int else why
        raise ConfigError(f"{name} cannot be a list, since {why}: {instead}")
    if len(values) == 0:
        raise ConfigError(f"{name} is an empty list: name one or more values.")
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise ConfigError(f"{name} has {value!r} in its list, whose values must be numbers: {instead}")
        if value in values[:i]:
            raise ConfigError(f"{name} has {value!r} twice in its list: name each value once.")


def _name(spec: RunSpec, specs: Sequence[RunSpec]) -> str:
    """Return the name of a run among others: what of its settings differs, and its seed."""
    own = ",".join(f"{name}={getattr(spec.config, name):g}" for name in differing([each.config for each in specs]))
    return f"{own}/{spec.seed}" if own else str(spec.seed)


def differing(configs: Sequence[Settings]) -> list[str]:
    """Return the names of the settings that are not the same in all."""
    return [
        field.name
        for field in dataclasses.fields(configs[0])
        if len({getattr(config, field.name) for config in configs}) > 1
    ]


def open_runs(
    specs: Sequence[RunSpec],
    folders: Sequence[Path | None],
    *,
    env: EnvLike | None = None,
    dataset: DatasetLike | None = None,
) -> list[Trainer]:
    """Return a trainer for each run: a new one, or that of the checkpoint in its folder.

    Raises:
        ConfigError: a folder has a run with other settings.
    """
    from rlox.compare import check_same
    from rlox.plan import Job

    specs = [dataclasses.replace(spec, dataset=named(spec.dataset)) for spec in specs]
    check_same([Job("", spec, folder) for spec, folder in zip(specs, folders, strict=True) if folder])
    source = specs[0].dataset if dataset is None else dataset
    known = env is not None or specs[0].env is not None
    data = None if source is None else make_dataset(source, specs[0].reading, spaces_known=known)
    with contextlib.ExitStack() as opened:
        found = []
        for spec, folder in zip(specs, folders, strict=True):
            if folder is not None and checkpoint.exists(folder):
                budget, config = dataclasses.asdict(spec.budget), dataclasses.asdict(spec.config)
                given = env if env is not None else spec.env
                trainer = Trainer.load(folder, env=given, dataset=dataset, config=config, budget=budget)
            else:
                trainer = Trainer._from_data(spec, env, data, run_dir=folder)
            found.append(opened.enter_context(trainer))
            _share_data([found[0], trainer])
        opened.pop_all()
    return found


def _share_data(trainers: Sequence[Trainer]) -> None:
    """Let all of them learn from one copy of their data.

    Raises:
        ConfigError: their data, spaces or algorithms are not the same, or one has learned from an environment.
    """
    first, *others = (
        trainer._ours("train_offline_seeds", "it learns from an environment only") for trainer in trainers
    )
    for learner in (first, *others):
        same = (learner.algorithm, learner.data_digest, learner.observation_space, learner.action_space)
        if same != (first.algorithm, first.data_digest, first.observation_space, first.action_space):
            raise ConfigError("Runs can be learned at once from the same data and by the same algorithm only.")
        if learner.counters.env_steps:
            raise ConfigError("A run that has learned from an environment goes on alone: its data are its own.")
        if learner is not first:
            learner.share_data(first)


def train_together(trainers: Sequence[Trainer], progress: bool | None = None) -> list[Metrics | RloxError]:
    """Learn what is left of the offline budgets of several trainers, in one program; returns how each has ended.

    Raises:
        ConfigError: their data, spaces, algorithms or settings are not such that one program can learn from them.
        Interrupted: a signal came; all of them were saved.
    """
    _share_data(trainers)
    begun = [trainer._begin_offline() for trainer in trainers]
    group, clock = _Group([learner for learner, _ in begun]), _SharedClock(len(trainers))
    total = sum(cursor.end - cursor.begin for _, cursor in begun)
    passed = [cursor.clock(learner.counters) - cursor.begin for learner, cursor in begun]
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress(max(total, 1), progress, passed=sum(passed), what=f"{len(trainers)} runs"))
        interrupts = stack.enter_context(Interrupts())

        def show(i: int) -> Callable[[int, Mapping[str, float]], None]:
            def update(steps: int, _: Mapping[str, float]) -> None:
                passed[i] = steps
                bar.update(sum(passed), _means([trainer.standing.metrics for trainer in trainers]))

            return update

        loops = [
            training(trainer, *pair, show(i), clock=clock, interrupts=interrupts)
            for i, (trainer, pair) in enumerate(zip(trainers, begun, strict=True))
        ]
        for each in loops:
            # What an error leaves here is saved as they are closed.
            stack.enter_context(contextlib.closing(each))
        ended = group.drive(loops, clock)
    stopped = [error for error in ended if isinstance(error, Interrupted)]
    if stopped:
        raise Interrupted(_stopped(stopped[0], trainers), stopped[0].number)
    return [error for error in ended if not isinstance(error, Interrupted)]


class _SharedClock:
    """The seconds of each of ``n`` runs that share the time, until some of them have ended."""

    def __init__(self, n: int):
        self._n, self._seconds, self._last = n, 0.0, time.perf_counter()

    def __call__(self) -> float:
        now = time.perf_counter()
        self._seconds, self._last = self._seconds + (now - self._last) / max(self._n, 1), now
        return self._seconds

    def leave(self) -> None:
        """Share the time from now on among one fewer."""
        self()
        self._n -= 1


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(own) for own in metrics))
    return {name: float(np.mean([own[name] for own in metrics])) for name in names}


def _stopped(first: Interrupted, trainers: Sequence[Trainer]) -> str:
    """Return where several trainings were stopped, and how they continue."""
    at = min(trainer.gradient_steps for trainer in trainers)
    if len(trainers) == 1:
        return str(first)
    if trainers[0].run_dir is None:
        return f"Stopped at step {at:,} of {len(trainers)} runs, which were not written: run_dir keeps them."
    return f"Stopped {len(trainers)} runs at step {at:,} and saved. The same call, or command, goes on with them."


class _Group:
    """Learners of the same data that advance together.

    Args:
        learners: one or more, with the same data.

    Raises:
        ConfigError: a setting cannot differ in one program.
    """

    def __init__(self, learners: Sequence[RegressionLearner]):
        first = learners[0]
        self._learners, self._chunk = learners, 64
        configs = [learner.config for learner in learners]
        names = differing(configs)
        self._numbers = {name: jnp.array([getattr(each, name) for each in configs], jnp.float32) for name in names}
        self._learn = compile_together(first.algorithm, first.config)
        for name in names:
            self._check_number(name)

    def _check_number(self, name: str) -> None:
        """Refuse, by tracing it, a setting by which an algorithm decides what it computes."""
        learner = self._learners[0]

        def trace(value: Any) -> Any:
            config = with_numbers(learner.config, {name: value})
            return learn_alone(learner.algorithm, config, learner.state.train, learner.data, 1)

        try:
            jax.eval_shape(trace, jnp.float32(0.5))
        except jax.errors.ConcretizationTypeError:
            raise ConfigError(
                f"{name} cannot be a list here, since the algorithm decides by its value what it computes: compare "
                "its values in separate programs, by `rlox compare --config`."
            ) from None

    def drive(self, loops: Sequence[Loop], clock: _SharedClock) -> list[Any]:
        """Advance all of them until their loops end; returns what each has returned, or why it has ended early."""
        ended: dict[int, Any] = {}
        limits: dict[int, int] = {}

        def go_on(i: int) -> None:
            limits.pop(i, None)
            try:
                limits[i] = next(loops[i])
            except StopIteration as end:
                ended[i] = end.value
            except (RloxError, Interrupted) as error:
                ended[i] = error
            if i in ended:
                clock.leave()

        for i in range(len(loops)):
            go_on(i)
        while limits:
            going = sorted(limits)
            self._advance(going, min(limits.values()))
            for i in going:
                go_on(i)
        return [ended[i] for i in range(len(loops))]

    def _advance(self, going: Sequence[int], limit: int) -> None:
        """Let some of them learn from at most ``limit`` steps, or a round."""
        learners = [self._learners[i] for i in going]
        numbers = {name: values[jnp.array(going)] for name, values in self._numbers.items()}
        n, began = min(limit, self._chunk), time.perf_counter()
        states = [learner.state.train for learner in learners]
        states, reports = self._learn(states, numbers, learners[0].data, n)
        for learner, state, report in zip(learners, states, reports, strict=True):
            learner.take_offline(state, report)
        reports[-1].values.block_until_ready()
        self._chunk = next_chunk(n, time.perf_counter() - began)
