"""What rlox raises. Every message is one line: the value, the rule, the way out."""

import difflib
from collections.abc import Iterable


class RloxError(ValueError):
    """Base of every error that rlox raises on purpose."""


class ConfigError(RloxError):
    """A setting, an algorithm or an environment id that cannot be used."""


class SpaceError(RloxError):
    """An observation or action space that is not supported."""


class InvalidStepError(RloxError):
    """An environment returned something that its spaces do not allow, or that is not finite."""


class DatasetError(RloxError):
    """Logged data that cannot be learned from."""


class WorkerDiedError(RloxError):
    """A process that steps environments is gone."""


class CheckpointError(RloxError):
    """A checkpoint that is missing, torn, or made for something else."""


class ExportError(RloxError):
    """An exported policy that does not do what the policy does."""


class RunExistsError(RloxError):
    """A run folder that already holds a run."""


class DivergedError(RloxError):
    """A loss or a parameter is no longer finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of ``known``, or a list that is not too long if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(known)}." if 0 < len(known) <= 60 else ""


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())
