"""How far something is: live lines on a terminal or in a notebook."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

T = TypeVar("T")

MINUTE = 60.0
"""Seconds between plain lines of several runs."""


class Progress:
    """A live line on a terminal or in a notebook; elsewhere a plain line every few seconds.

    Args:
        total: steps in all.
        show: True, False, or None for a terminal or a notebook only.
        what: the name of the work, in front of the line.
        passed: of them, those of before.
    """

    def __init__(self, total: int, show: bool | None, *, what: str = "", passed: int = 0):
        self._total, self._what, self._passed = total, what, passed
        self._console = Console(stderr=True, highlight=False)
        notebook, terminal = self._console.is_jupyter, self._console.is_terminal
        shown = (notebook or terminal) if show is None else show
        self._cell = _Cell() if shown and notebook else None
        self._live = Live(console=self._console, transient=True) if shown and terminal and not notebook else None
        self._plain = shown and not (self._live or self._cell)
        self._start = self._last = time.perf_counter()
        self._line = ""

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()
        if self._line and (self._live or self._plain):
            print(self._line, file=sys.stderr)
        if self._line and self._cell:
            self._cell.show(self._line)

    def update(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Show how far it is after ``steps`` of ``total``."""
        now = time.perf_counter()
        speed = (steps - self._passed) / max(now - self._start, 1e-9)
        parts = [self._what] if self._what else []
        parts += [f"{steps:,}/{self._total:,} steps", f"{speed:,.0f} steps/s"]
        parts.append(f"{_clock(max(self._total - steps, 0) / max(speed, 1e-9))} left")
        for label, name in _SHOWN:
            if math.isfinite(metrics.get(name, math.nan)):
                parts.append(f"{label} {metrics[name]:.4g}")
        self._line = " | ".join(parts)
        bar = _bar(steps / self._total) + " "
        if self._live:
            self._live.update(Text.assemble((bar, "cyan"), self._line))
        elif self._cell and now - self._last > 0.2:
            self._cell.show(bar + self._line)
            self._last = now
        elif self._plain and now - self._last > 5:
            print(self._line, file=sys.stderr, flush=True)
            self._line, self._last = "", now


class _Cell:
    """A line in the output of a notebook's cell, each in the place of the one before."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, line: str) -> None:
        # Not by rich, which needs ipywidgets for it.
        from IPython.display import display

        if self._handle is None:
            self._handle = display({"text/plain": line}, raw=True, display_id=True)
        elif self._handle:
            self._handle.update({"text/plain": line}, raw=True)


_SHOWN = [
    ("return", "rollout/episode_return"),
    ("eval", "eval/mean_reward"),
    ("critic loss", "critic/loss"),
    ("actor loss", "actor/loss"),
]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def track(what: str, items: Iterable[T], total: int, *, at: Callable[[T], int] | None = None) -> Generator[T]:
    """Yield items; if that takes over two seconds, show on a terminal how far it is.

    Args:
        what: the name of the work.
        items: what is yielded.
        total: steps in all of them.
        at: steps before an item; by default it is a step itself.
    """
    began, last, shown = time.monotonic(), 0.0, None
    try:
        for i, item in enumerate(items):
            now = time.monotonic()
            if now - began > 2 and now - last > 0.1:
                if shown is None:
                    shown = Progress(total, None, what=what)
                    shown.__enter__()
                shown.update(at(item) if at else i, {})
                last = now
            yield item
    finally:
        if shown is not None:
            shown.__exit__()


class Board:
    """How far several runs are: a few live lines on a terminal; elsewhere a plain line a minute and for each that ends.

    Args:
        total: runs in all.
        show: True, False, or None for a terminal only.
        what: what they are called.
    """

    def __init__(self, total: int, show: bool | None, *, what: str = "runs"):
        self._total, self._what, self._at_first = total, what, -1.0
        self._began = self._told = time.monotonic()
        self._console = Console(stderr=True, highlight=False)
        shown = self._console.is_terminal if show is None else show
        self._live = Live(console=self._console, transient=True) if shown and self._console.is_terminal else None
        self._plain = shown and self._live is None
        self._ended = 0

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, finished: int, failed: int, running: Mapping[str, tuple[float, str]], note: str = "") -> None:
        """Show which runs have ended, and how far (0 to 1) those are that are running; and a note."""
        self._ended = finished + failed
        share = (self._ended + sum(at for at, _ in running.values())) / max(self._total, 1)
        if self._at_first < 0:
            self._at_first = share
        now = time.monotonic()
        if self._live is None and (not self._plain or now - self._told < MINUTE):
            return
        passed, gained = now - self._began, share - self._at_first
        left = f" | {_clock((1 - share) * passed / gained)} left" if gained > 0 else ""
        told = f"{finished}/{self._total} {self._what}" + (f", {failed} failed" if failed else "") + left + note
        if self._live is None:
            how_far = (f"{name} {at:.0%} {what}".rstrip() for name, (at, what) in running.items())
            print(" | ".join((told, *how_far)), file=sys.stderr, flush=True)
            self._told = now
            return
        lines = [Text.assemble((f"{_bar(share)} ", "cyan"), told)]
        width = max(map(len, running), default=0)
        lines += [Text(f"{_bar(at)} {name:{width}}  {at:4.0%}  {what}") for name, (at, what) in running.items()]
        self._live.update(Group(*lines))

    def ended(self, name: str, failure: str | None, result: str = "finished") -> None:
        """Say that a run has ended, and why if it failed."""
        self._ended += 1
        told = f"{name}: {failure or result}"
        if self._live and failure:
            self._live.console.print(told, markup=False)
        elif self._plain:
            print(f"{self._ended}/{self._total} {told}", file=sys.stderr, flush=True)


def _bar(share: float) -> str:
    return f"{'━' * min(int(20 * share), 20):─<20}"
