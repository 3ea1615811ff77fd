"""The one loop: where it stands, and what happens on the way."""

from __future__ import annotations

import contextlib
import functools
import math
import shlex
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from rlox.callbacks import StartsFirst
from rlox.errors import DivergedError, InvalidStepError, WorkerDiedError
from rlox.files import as_typed
from rlox.learner import Counters, Learner
from rlox.modules import flags_again
from rlox.runs.alarm import Alarm
from rlox.runs.interrupts import Interrupted, Interrupts
from rlox.runs.progress import Progress
from rlox.spec import Budget

if TYPE_CHECKING:
    from rlox.trainer import Trainer

T = TypeVar("T")
EVENTS = ("evaluate", "log", "save")
"""What recurs, in the order in which it happens."""


class Cursor(NamedTuple):
    """Where a loop stands. Steps are environment steps, or gradient steps where it learns offline."""

    offline: bool
    begin: int
    end: int
    intervals: Mapping[str, int]
    """Steps between events; one that never happens is left out."""
    due: Mapping[str, int]
    """When each of them happens next."""

    @classmethod
    def start(cls, *, offline: bool, begin: int, end: int, budget: Budget) -> Cursor:
        """Return a cursor at ``begin``, with the intervals of a budget."""
        known = {
            "evaluate": budget.eval_interval,
            "log": budget.log_interval,
            "save": budget.checkpoint_interval,
        }
        intervals = {event: n for event, n in known.items() if n is not None}
        return cls(offline, begin, end, intervals, {event: begin + n for event, n in intervals.items()})

    def until(self, fresh: Cursor) -> Cursor:
        """Return this cursor with the end and the intervals of one that starts where this one is.

        What has kept its interval is due when it was; the rest, at multiples of its own from ``begin``.
        """
        due = {
            event: self.due[event]
            if self.intervals.get(event) == n
            else self.begin + n * ((fresh.begin - self.begin) // n + 1)
            for event, n in fresh.intervals.items()
        }
        return self._replace(end=fresh.end, intervals=fresh.intervals, due=due)

    def clock(self, counters: Counters) -> int:
        """Return the steps so far."""
        return counters.gradient_steps if self.offline else counters.env_steps

    def next_due(self) -> int:
        """Return the step at which something happens next."""
        return min(self.end, *self.due.values())

    def passed(self, at: int) -> tuple[list[str], Cursor]:
        """Return the events that are due at a step, in order, and the cursor after them.

        Each is due at multiples of its interval from ``begin``, once, however far the step is past it. A log follows
        an evaluation, and is due at the end.
        """
        now = {event for event, when in self.due.items() if at >= when}
        if "evaluate" in now or at >= self.end:
            now.add("log")
        due = dict(self.due)
        for event in now & due.keys():
            n = self.intervals[event]
            due[event] += n * max((at - due[event]) // n + 1, 0)
        return [event for event in EVENTS if event in now], self._replace(due=due)


class Standing(NamedTuple):
    """What a loop has come to; with it a checkpoint continues the records too."""

    cursor: Cursor | None = None
    metrics: Mapping[str, float] = {}
    """The last record of each metric."""
    best: float | None = None
    """Highest mean return of an evaluation."""

    def untimed(self) -> Standing:
        """Return the same without the seconds that it took, which change while nothing else does."""
        metrics = {name: value for name, value in self.metrics.items() if name != "time/seconds"}
        return self._replace(metrics=metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        cursor = None if self.cursor is None else self.cursor._asdict()
        return {**self._asdict(), "cursor": cursor, "metrics": dict(self.metrics)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Standing:
        """Return what ``to_dict`` took apart.

        Raises:
            TypeError: it did not make these values.
        """
        cursor = None if values["cursor"] is None else Cursor(**values["cursor"])
        numbers = [*values["metrics"].values(), *([] if values["best"] is None else [values["best"]])]
        if cursor is not None:
            numbers += [cursor.begin, cursor.end, *cursor.due.values(), *cursor.intervals.values()]
            if not cursor.due.keys() == cursor.intervals.keys() <= set(EVENTS):
                raise TypeError("the events of its loop are not ours")
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("the state of its loop is not made of numbers")
        if cursor is not None and min(cursor.intervals.values(), default=1) < 1:
            raise TypeError("an interval of its loop is below 1")
        return cls(**{**values, "cursor": cursor})


def turns(
    learner: Learner,
    cursor: Cursor,
    handlers: Mapping[str, Callable[[], bool]],
    moved: Callable[[Cursor], None] = lambda cursor: None,
    goes_on: Callable[[], bool] = lambda: True,
) -> Generator[int, None, Cursor]:
    """Bring a learner to the cursor's end; returns where the loop stopped.

    It is ``drive`` that advances the learner, by about as many steps as this yields, at least one.

    Args:
        learner: what learns.
        cursor: where to begin.
        handlers: what is called at each event; the loop stops if one returns False.
        moved: called with the new cursor whenever the learner comes back, before what is due there.
        goes_on: asked before each time that the learner advances; the loop stops if it returns False.
    """
    while (at := cursor.clock(learner.counters)) < cursor.end and goes_on():
        # Where a run was stopped before what is due there, that comes first.
        if (limit := cursor.next_due() - at) > 0:
            yield limit
        events, cursor = cursor.passed(cursor.clock(learner.counters))
        moved(cursor)
        for event in events:
            if not handlers[event]():
                return cursor
    return cursor


def drive(learner: Learner, turns: Generator[int, None, T], *, offline: bool) -> T:
    """Advance a learner by as many steps as its loop yields; returns what the loop does, which is told of errors."""
    with contextlib.closing(turns):
        try:
            limit = next(turns)
            while True:
                try:
                    learner.advance(limit, offline=offline)
                except BaseException as error:
                    limit = turns.throw(error)
                else:
                    limit = next(turns)
        except StopIteration as ended:
            return ended.value


def train(trainer: Trainer, learner: Learner, cursor: Cursor, progress: bool | None) -> dict[str, float]:
    """Run the loop with a trainer's evaluation, records and checkpoints; returns what ``Trainer.train`` does."""
    total, passed = max(cursor.end - cursor.begin, 1), cursor.clock(learner.counters) - cursor.begin
    with Progress(total, progress, passed=passed) as bar:
        return drive(learner, training(trainer, learner, cursor, bar.update), offline=cursor.offline)


def training(
    trainer: Trainer,
    learner: Learner,
    cursor: Cursor,
    show: Callable[[int, Mapping[str, float]], None],
    *,
    clock: Callable[[], float] = time.perf_counter,
    interrupts: Interrupts | None = None,
) -> Generator[int, None, dict[str, float]]:
    """Do what ``train`` does, but for advancing the learner: yield about how many steps it should.

    Args:
        trainer: whose training it is.
        learner: its learner.
        cursor: where to begin.
        show: told of the steps so far, and the last metrics.
        clock: of the training's seconds.
        interrupts: says whether to stop; None looks for signals itself.
    """
    before, began, folder = learner.counters, clock(), trainer.folder
    passed, settled = cursor.clock(before) - cursor.begin, threading.Event()
    if cursor.begin + passed < cursor.end:
        trainer.standing = trainer.standing._replace(cursor=cursor)

    def is_settled() -> bool:
        now = trainer.standing.cursor
        if learner.envs and learner.envs.is_lost:  # the last checkpoint knows where they were
            return False
        return settled.is_set() and now is not None and now.clock(learner.counters) < now.next_due()

    earlier = trainer.standing.metrics.get("time/seconds", 0.0)

    def spent() -> float:
        return clock() - began

    with contextlib.ExitStack() as stack:
        stack.enter_context(_saying_what_is_saved(trainer, learner))
        stack.callback(lambda: _count(trainer, earlier + spent()))
        handlers = _handlers(trainer, learner, before, earlier, spent, offline=cursor.offline)
        save = handlers["save"]
        if learner.envs:
            learner.envs.check()
        _start(trainer)
        if folder:
            # Before the log: where there is a log, there is a checkpoint to continue from.
            save()
            stack.enter_context(folder.logging(trainer.describe_run()))
            stack.push(functools.partial(_save_on_error, save, is_settled))
        signals = stack.enter_context(Interrupts()) if interrupts is None else interrupts
        late = _Clock(trainer.spec.budget.checkpoint_minutes)

        def moved(cursor: Cursor) -> None:
            settled.clear()
            trainer.standing = trainer.standing._replace(cursor=cursor)
            show(cursor.clock(learner.counters) - cursor.begin, trainer.standing.metrics)

        def goes_on() -> bool:
            settled.set()
            if folder and late():
                save()
            return signals.number is None

        if not cursor.offline:
            learner.set_end(cursor.end)
        with _recording_divergence(trainer, learner):
            yield from turns(learner, cursor, handlers, moved=moved, goes_on=goes_on)
            learner.check_finite()
        save()
    if signals.number is not None:
        raise Interrupted(_stopped_at(trainer, learner, cursor), signals.number)
    seconds, now, last = spent(), learner.counters, trainer.standing.metrics
    return {
        "mean_reward": last.get("rollout/episode_return", math.nan),
        "episodes": now.episodes,
        "env_steps": now.env_steps,
        "gradient_steps": now.gradient_steps,
        "seconds": seconds,
        "env_steps_per_second": (now.env_steps - before.env_steps) / seconds,
        **last,
    }


def _start(trainer: Trainer) -> None:
    """Open the loggers, and call what is called when a training begins."""
    run_dir = None if trainer.run_dir is None else str(trainer.run_dir)
    steps = {"env_steps": trainer.env_steps, "gradient_steps": trainer.gradient_steps}
    trainer.loggers.open({**trainer.describe_run(), "run_dir": run_dir, **steps})
    for callback in trainer.callbacks:
        if isinstance(callback, StartsFirst):
            callback.on_training_start(trainer)


def _count(trainer: Trainer, seconds: float) -> None:
    """Note the seconds of training so far, from which the next one, or a loaded run, counts on."""
    metrics = {**trainer.standing.metrics, "time/seconds": seconds}
    trainer.standing = trainer.standing._replace(metrics=metrics)


def _handlers(
    trainer: Trainer,
    learner: Learner,
    before: Counters,
    earlier: float,
    spent: Callable[[], float],
    *,
    offline: bool,
) -> dict[str, Callable[[], bool]]:
    """Return what happens at each event of a training that began at ``before``, and has spent so many seconds.

    Before it there were ``earlier`` ones.
    """
    folder = trainer.folder
    fresh: dict[str, float] = {}
    alarm = Alarm(trainer.config)

    def evaluate() -> bool:
        result = trainer.evaluate(trainer.spec.budget.n_eval_episodes)
        fresh.update({f"eval/{name}": value for name, value in result.items()})
        before = trainer.standing
        if before.best is None or result["mean_reward"] > before.best:
            metrics = {**before.metrics, **fresh}
            trainer.standing = before._replace(best=result["mean_reward"], metrics=metrics)
            if folder and not folder.save_best(functools.partial(trainer.make_checkpoint, replay=False)):
                trainer.standing = before  # a later one may be worse, and still better than the file
        return True

    def log() -> bool:
        seconds, now = spent(), learner.counters
        fresh.update(learner.metrics())
        fresh["time/seconds"] = earlier + seconds
        fresh["time/env_steps_per_second"] = (now.env_steps - before.env_steps) / seconds
        fresh["time/gradient_steps_per_second"] = (now.gradient_steps - before.gradient_steps) / seconds
        record = {"env_steps": now.env_steps, "gradient_steps": now.gradient_steps, **fresh}
        trainer.standing = trainer.standing._replace(metrics={**trainer.standing.metrics, **fresh})
        fresh.clear()
        if folder:
            folder.log(record)
        trainer.loggers.log(record, offline=offline)
        alarm(record)
        answers = [callback(trainer, record) for callback in trainer.callbacks]
        return not any(isinstance(answer, bool | np.bool_) and not answer for answer in answers)

    def save() -> bool:
        if folder:
            _count(trainer, earlier + spent())
            trainer.keep()
        return True

    return {"evaluate": evaluate, "log": log, "save": save}


@contextlib.contextmanager
def _recording_divergence(trainer: Trainer, learner: Learner) -> Iterator[None]:
    """Write a last record of a training that has diverged, for its report."""
    try:
        yield
    except DivergedError:
        if trainer.folder:
            now = learner.counters
            record = {"env_steps": now.env_steps, "gradient_steps": now.gradient_steps, "actor/loss": math.nan}
            trainer.folder.log(record)
        raise


class _Clock:
    """Says whether so many minutes have passed since it last said so."""

    def __init__(self, minutes: float | None):
        self._minutes, self._last = minutes, time.monotonic()

    def __call__(self) -> bool:
        if self._minutes is None or time.monotonic() - self._last < 60 * self._minutes:
            return False
        self._last = time.monotonic()
        return True


def _save_on_error(
    save: Callable[[], bool], is_settled: Callable[[], bool], kind: type[BaseException] | None, *_: object
) -> None:
    # Between a step and the end of what is due after it, the checkpoint before it repeats both.
    if kind is not None and not issubclass(kind, DivergedError):
        # The error is what has to be told: if it leaves nothing to save, the checkpoint before it stays.
        with contextlib.suppress(Exception):
            if is_settled():
                save()


@contextlib.contextmanager
def _saying_what_is_saved(trainer: Trainer, learner: Learner) -> Iterator[None]:
    """Add to an error what is left of the run."""
    try:
        yield
    except (DivergedError, InvalidStepError, WorkerDiedError) as error:
        if trainer.folder and trainer.folder.last_saved:
            raise type(error)(f"{error} {trainer.folder.last_saved}") from error.__cause__
        raise
    except Exception as error:
        if trainer.folder and trainer.folder.last_saved:
            error.add_note(f"{trainer.folder.last_saved} Continue with: {_how_to_continue(trainer, learner)}")
        raise


def _how_to_continue(trainer: Trainer, learner: Learner) -> str:
    """Return what continues a run in its folder."""
    spec, cursor = trainer.spec, trainer.standing.cursor
    live = [", env=..."] if spec.env is None and learner.envs is not None else []
    live += [", dataset=..."] if spec.dataset is None and learner.data_digest is not None else []
    folder = as_typed(trainer.run_dir) if trainer.run_dir else None
    if live:
        train = "train_offline" if cursor is not None and cursor.offline else "train"
        return f"Trainer.load('{folder}'{''.join(live)}).{train}()"
    return f"rlox resume {shlex.quote(str(folder))}{flags_again(spec.env)}"


def _stopped_at(trainer: Trainer, learner: Learner, cursor: Cursor) -> str:
    """Return where a training was stopped, and how it continues."""
    at = cursor.clock(learner.counters)
    if trainer.folder is None:
        return f"Stopped at step {at:,}: train() continues, save() keeps it."
    if trainer.folder.failed:
        return f"Stopped at step {at:,}, which could not be saved. {trainer.folder.last_saved}"
    return f"Stopped at step {at:,} and saved. Continue with: {_how_to_continue(trainer, learner)}"
