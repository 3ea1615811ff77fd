"""The one loop: where it stands, and what happens on the way."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rlox.errors import DivergedError
from rlox.learner import Counters, Learner
from rlox.runs.interrupts import Interrupted, Interrupts
from rlox.runs.logs import RunLog
from rlox.runs.progress import Progress
from rlox.spec import Budget

if TYPE_CHECKING:
    from rlox.trainer import Trainer

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


def run(
    learner: Learner,
    cursor: Cursor,
    handlers: Mapping[str, Callable[[], bool]],
    advanced: Callable[[int], None] = lambda at: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Cursor:
    """Advance a learner to the cursor's end; returns where the loop stopped.

    Args:
        learner: what learns.
        cursor: where to begin.
        handlers: what is called at each event; the loop stops if one returns False.
        advanced: called with the steps so far whenever the learner comes back.
        stopped: asked before each time that the learner advances; the loop stops if it returns True.
    """
    while (at := cursor.clock(learner.counters)) < cursor.end and not stopped():
        learner.advance(cursor.next_due() - at, offline=cursor.offline)
        at = cursor.clock(learner.counters)
        advanced(at)
        events, cursor = cursor.passed(at)
        for event in events:
            if not handlers[event]():
                return cursor
    return cursor


def train(trainer: Trainer, learner: Learner, cursor: Cursor, progress: bool | None) -> dict[str, float]:
    """Run the loop with a trainer's evaluation, records and checkpoints; returns what ``Trainer.train`` does."""
    before, began = learner.counters, time.perf_counter()
    fresh: dict[str, float] = {}
    last = trainer.last_metrics

    def evaluate() -> bool:
        result = trainer.evaluate(trainer.spec.budget.n_eval_episodes)
        fresh.update({f"eval/{name}": value for name, value in result.items()})
        return True

    def log() -> bool:
        seconds, now = time.perf_counter() - began, learner.counters
        fresh.update(learner.metrics())
        fresh["time/env_steps_per_second"] = (now.env_steps - before.env_steps) / seconds
        fresh["time/gradient_steps_per_second"] = (now.gradient_steps - before.gradient_steps) / seconds
        record = {"env_steps": now.env_steps, "gradient_steps": now.gradient_steps, **fresh}
        last.update(fresh)
        fresh.clear()
        for sink in sinks:
            sink(record)
        answers = [callback(trainer, record) for callback in trainer.callbacks]
        return all(answer is not False for answer in answers)

    def save() -> bool:
        if trainer.run_dir:
            trainer.save(trainer.run_dir)
        return True

    def save_on_error(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # A state that diverged is not worth keeping.
            with contextlib.suppress(DivergedError):
                save()

    with contextlib.ExitStack() as stack:
        sinks: list[Any] = [trainer.logger] if trainer.logger else []
        if trainer.run_dir:
            about = trainer.describe()
            log_files = RunLog(trainer.run_dir, {**about.pop("spec"), **about}, offline=cursor.offline)
            sinks.insert(0, stack.enter_context(log_files))
        bar = stack.enter_context(Progress(max(cursor.end - cursor.begin, 1), progress))
        stack.push(save_on_error)
        handlers = {"evaluate": evaluate, "log": log, "save": save}
        interrupts = stack.enter_context(Interrupts())
        run(
            learner,
            cursor,
            handlers,
            advanced=lambda at: bar.update(at - cursor.begin, last),
            stopped=lambda: interrupts.number is not None,
        )
    save()
    if interrupts.number is not None:
        raise Interrupted(_stopped_at(trainer, cursor.clock(learner.counters)), interrupts.number)
    seconds, now = time.perf_counter() - began, learner.counters
    return {
        "mean_reward": last.get("rollout/episode_return", math.nan),
        "episodes": now.episodes,
        "env_steps": now.env_steps,
        "gradient_steps": now.gradient_steps,
        "seconds": seconds,
        "env_steps_per_second": (now.env_steps - before.env_steps) / seconds,
        **last,
    }


def _stopped_at(trainer: Trainer, at: int) -> str:
    """Return where a training was stopped, and how it continues."""
    if trainer.run_dir is None:
        return f"Stopped at step {at:,}: train() continues, save() keeps it."
    return f"Stopped at step {at:,} and saved. Continue with: rlox resume {trainer.run_dir}"
