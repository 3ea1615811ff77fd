"""Signals that ask a training to stop: the loop looks between steps, where nothing is half-changed."""

from __future__ import annotations

import signal
import threading
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, at a point from which it can continue."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number
        """The signal's."""


class Interrupts:
    """Notes the first SIGINT, SIGTERM or SIGHUP; a second one does what it did before.

    A context manager, which puts back the handlers that were there. Signals that were ignored (by nohup) stay ignored,
    and outside the main thread, where Python allows no handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: object) -> None:
        if self.number is None:
            self.number = number
        else:
            self._put_back()
            signal.raise_signal(number)

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *error: object) -> None:
        self._put_back()


def ignore() -> None:
    """Leave these signals to the parent: a terminal sends them to its workers too."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
