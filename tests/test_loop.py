"""The cursor and the one loop, with a learner that only counts."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rlox import loop
from rlox.learner import Counters
from rlox.loop import Cursor
from rlox.spec import Budget


class Counting:
    """Counts steps, ``stride`` at least and ``most`` at most each time; notes what it was asked for."""

    def __init__(self, stride: int = 1, most: int = 10**9):
        self.counters, self.stride, self.most = Counters(), stride, most
        self.asked: list[tuple[int, bool]] = []

    def advance(self, limit: int, *, offline: bool = False) -> None:
        assert limit >= 1
        self.asked.append((limit, offline))
        n = -(-min(limit, self.most) // self.stride) * self.stride
        field = "gradient_steps" if offline else "env_steps"
        self.counters = self.counters._replace(**{field: getattr(self.counters, field) + n})


def events_of(learner: Any, cursor: Cursor, stop: Callable[[], bool] = lambda: False) -> list[tuple[str, int]]:
    seen: list[tuple[str, int]] = []

    def note(event: str) -> Callable[[], bool]:
        def handle() -> bool:
            seen.append((event, cursor.clock(learner.counters)))
            return not stop()

        return handle

    loop.drive(
        learner, loop.turns(learner, cursor, {event: note(event) for event in loop.EVENTS}), offline=cursor.offline
    )
    return seen


def cursor(end: int, *, offline: bool = False, begin: int = 0, **intervals: int | None) -> Cursor:
    known: Any = {"log_interval": 10**6, "checkpoint_interval": 10**6, **intervals}
    return Cursor.start(offline=offline, begin=begin, end=end, budget=Budget(**known))


def test_each_event_happens_at_multiples_of_its_interval_and_a_log_at_the_end():
    seen = events_of(Counting(), cursor(25, log_interval=10, checkpoint_interval=20))
    assert seen == [("log", 10), ("log", 20), ("save", 20), ("log", 25)]


def test_an_evaluation_is_followed_by_a_log_and_then_by_a_checkpoint():
    seen = events_of(Counting(), cursor(12, eval_interval=6, log_interval=100, checkpoint_interval=6))
    assert seen == [(event, at) for at in (6, 12) for event in ("evaluate", "log", "save")]


def test_a_learner_that_overshoots_is_met_once_and_the_grid_stays():
    seen = events_of(Counting(stride=7), cursor(30, log_interval=10))
    # 14, 21, 35: at 21 the step 20 has passed; nothing is made up for twice.
    assert seen == [("log", 14), ("log", 21), ("log", 35)]


def test_a_stride_over_several_intervals_makes_one_event():
    assert events_of(Counting(stride=50), cursor(100, log_interval=10)) == [("log", 50), ("log", 100)]


@pytest.mark.parametrize("most", [1, 3, 10**9])
def test_events_do_not_depend_on_how_far_the_learner_advances_at_once(most: int):
    wanted = events_of(Counting(), cursor(60, eval_interval=20, log_interval=6, checkpoint_interval=25))
    assert (
        events_of(Counting(most=most), cursor(60, eval_interval=20, log_interval=6, checkpoint_interval=25)) == wanted
    )


def test_the_learner_is_asked_for_what_is_missing_to_the_next_event():
    learner = Counting()
    events_of(learner, cursor(25, log_interval=10, checkpoint_interval=15))
    assert [limit for limit, _ in learner.asked] == [10, 5, 5, 5]


def test_offline_learning_is_counted_in_gradient_steps():
    learner = Counting()
    learner.counters = Counters(env_steps=77, gradient_steps=5)
    seen = events_of(learner, cursor(15, offline=True, begin=5, log_interval=5))
    assert seen == [("log", 10), ("log", 15)]
    assert learner.counters == Counters(env_steps=77, gradient_steps=15)
    assert all(offline for _, offline in learner.asked)


def test_a_handler_that_returns_false_ends_the_loop():
    learner = Counting()
    assert events_of(learner, cursor(100, log_interval=10), stop=lambda: learner.counters.env_steps >= 30)[-1] == (
        "log",
        30,
    )
    assert learner.counters.env_steps == 30


def test_what_is_due_where_a_loop_begins_comes_first():
    learner, there = Counting(), cursor(30, log_interval=10)
    learner.advance(10)
    assert events_of(learner, there) == [("log", 10), ("log", 20), ("log", 30)]


def test_a_loop_that_is_at_its_end_does_nothing():
    learner = Counting()
    learner.counters = Counters(env_steps=5)
    assert events_of(learner, cursor(5, begin=5)) == []
    assert learner.asked == []


def test_what_keeps_its_interval_is_due_when_it_was():
    before = cursor(100, log_interval=10, eval_interval=30)._replace(due={"log": 53, "evaluate": 60, "save": 10**6})
    now = before.until(cursor(200, begin=47, log_interval=10, eval_interval=25))
    assert (now.begin, now.end, now.due["log"], now.due["evaluate"]) == (0, 200, 53, 50)
    assert before.until(cursor(100, begin=50, log_interval=7)).due["log"] == 56


def test_a_clock_says_it_once_in_so_many_minutes(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now))
    clock, told = loop._Clock(2.0), []
    for now in range(0, 400, 10):
        if clock():
            told.append(now)
    assert told == [120, 240, 360]
