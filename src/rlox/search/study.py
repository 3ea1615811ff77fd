"""Optuna's study of a search: what to try next, and which trials are behind. It is made of the trials' folders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rlox.errors import ConfigError, one_line
from rlox.search.space import Choice, Range, shown
from rlox.search.trials import Outcome, Task, Trial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

T = TypeVar("T")
JOURNAL = "study.journal"
NAME = "rlox"
RANDOM = 10
"""Trials at first that are drawn from the space without regard to what came out."""
BEFORE_PRUNING = 5
"""Trials that have to be complete before one can be pruned."""
SPARED = 0.2
"""Share of a run in which it is not pruned."""


def require() -> None:
    """Refuse to search without Optuna.

    Raises:
        ConfigError: the extra rlox[tune] is missing.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("A search needs the extra rlox[tune]: pip install '.[tune]' in a clone of rlox.") from None


class Study:
    """Optuna's view of a search.

    It is written anew from the trials when a search begins or goes on, and when its journal turns out to be torn. Only
    Optuna and its tools read it, so that it may also be missing, or locked by somebody.

    Args:
        path: file of its journal.
        task: what is searched.
        trials: those of the search, by number, as they are now and as they become.
    """

    def __init__(self, path: Path, task: Task, trials: Mapping[int, Trial]):
        self._path, self._trials, self._seed = path, trials, task.base.seed
        self._names = {name: _names(tried) for name, tried in task.space.items()}
        self._distributions = {name: _distribution(tried) for name, tried in task.space.items()}
        self._spared = int(SPARED * task.n_evaluations)
        self._reported: dict[int, dict[int, float]] = {}
        self._build()

    def ask(self, number: int) -> dict[str, Any]:
        """Return settings for a new trial: they follow from its number, the seed and the others so far."""
        from optuna.samplers import TPESampler

        def ask() -> optuna.Trial:
            seed = np.random.SeedSequence([self._seed, number]).generate_state(1)[0]
            self._study.sampler = TPESampler(seed=int(seed), n_startup_trials=RANDOM)
            return self._study.ask(self._distributions)

        found = self._live[number] = self._safely(ask)
        return {name: self._names[name].get(value, value) for name, value in found.params.items()}

    def begin(self, number: int, settings: Mapping[str, Any]) -> None:
        """Add a trial whose settings are given."""
        self._safely(lambda: self._begin(number, settings))

    def report(self, number: int, evaluation: int, value: float) -> bool:
        """Take note of an evaluation; returns whether the trial is behind the median of the others."""

        def report() -> bool:
            self._live[number].report(value, evaluation)
            return self._live[number].should_prune()

        behind = self._safely(report)
        self._reported.setdefault(number, {})[evaluation] = value
        return behind

    def tell(self, number: int, outcome: Outcome | None) -> None:
        """Take note of how a trial ended; None if its run broke, so that nothing is known of its settings."""
        from optuna.trial import TrialState

        def tell() -> None:
            trial = self._live.get(number)
            if trial is None:
                return  # The study was made anew, of trials that have ended.
            if outcome is not None and outcome.state == "complete":
                self._study.tell(trial, outcome.value)
            else:
                # One that failed counts as bad: what Optuna calls failed, it would try again.
                self._study.tell(trial, state=TrialState.FAIL if outcome is None else TrialState.PRUNED)

        self._safely(tell)
        self._live.pop(number, None)

    def _begin(self, number: int, settings: Mapping[str, Any]) -> None:
        self._study.enqueue_trial(self._params(settings))
        self._live[number] = self._study.ask(self._distributions)
        for evaluation, value in self._reported.get(number, {}).items():
            self._live[number].report(value, evaluation)

    def _params(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings as Optuna has them."""
        named = {name: {value: text for text, value in names.items()} for name, names in self._names.items()}
        return {name: named[name].get(value, value) for name, value in settings.items()}

    def _safely(self, do: Callable[[], T]) -> T:
        """Return what something does with the study; if the journal breaks under it, once more with a new one."""
        try:
            if self._size != self._size_now():
                raise OSError("somebody has changed it")
            found = do()
        except (OSError, ValueError, LookupError, RuntimeError) as error:
            warnings.warn(
                f"'{self._path}' cannot be used ({one_line(error)}): it is written anew from the trials.", stacklevel=4
            )
            self._build()
            found = do()
        self._size = self._size_now()
        return found

    def _size_now(self) -> int:
        """Return the bytes of the journal, which only this process writes; 0 if the study is in memory."""
        return self._path.stat().st_size if self._on_disk else 0

    def _build(self) -> None:
        """Make the study of the trials; in memory, if its journal cannot be written."""
        from optuna.storages import InMemoryStorage

        try:
            # The folder of the search has a lock of its own: nobody else writes here, whoever has left this one.
            for file in (self._path, Path(f"{self._path}.lock")):
                file.unlink(missing_ok=True)
            self._fill(_storage(self._path))
            self._on_disk = True
        except OSError as error:
            warnings.warn(
                f"'{self._path}' cannot be written ({one_line(error)}): the search goes on without it.", stacklevel=5
            )
            self._fill(InMemoryStorage())
            self._on_disk = False
        self._size = self._size_now()

    def _fill(self, storage: BaseStorage) -> None:
        import optuna

        pruner = optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING, n_warmup_steps=self._spared)
        told = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize", pruner=pruner)
        finally:
            optuna.logging.set_verbosity(told)
        self._live: dict[int, optuna.Trial] = {}
        for number, trial in self._trials.items():
            if trial.outcome is None:
                self._begin(number, trial.settings)
            else:
                self._study.add_trial(self._frozen(trial, trial.outcome))

    def _frozen(self, trial: Trial, outcome: Outcome) -> optuna.trial.FrozenTrial:
        """Return a trial that has ended, as it would be if the study had been told."""
        from optuna.trial import TrialState, create_trial

        complete, returns = outcome.state == "complete", trial.evaluations()
        return create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            value=outcome.value if complete else next(reversed(returns.values()), None),
            params=self._params(trial.settings),
            distributions=self._distributions,
            intermediate_values=returns,
        )


def _storage(path: Path) -> BaseStorage:
    """Return Optuna's storage in a journal, a file to which lines are appended."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Ours(JournalFileOpenLock):
        """No lock: Optuna's outlives who had it and was killed."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    return JournalStorage(JournalFileBackend(str(path), Ours(str(path))))


def _distribution(tried: Range | Choice) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(tried, Choice):
        return CategoricalDistribution([_name(value) for value in tried.values])
    if isinstance(tried.low, int) and isinstance(tried.high, int):
        return IntDistribution(tried.low, tried.high, log=tried.log)
    return FloatDistribution(tried.low, tried.high, log=tried.log)


def _name(value: Any) -> Any:
    """Return a choice as Optuna has it, which takes no tuples."""
    return shown(value) if isinstance(value, tuple) else value


def _names(tried: Range | Choice) -> dict[str, Any]:
    """Return those choices that have another name there, by it."""
    return {_name(value): value for value in tried.values if isinstance(value, tuple)}
