"""What rlox raises. Every message is one line: the value, the rule, the way out."""

import difflib
from collections.abc import Callable, Iterable

_OTHER_WORDS = {
    "net_arch": ("hidden",),
    "ent_coef": ("entropy_coef",),
    "gae_lambda": ("td_lambda",),
    "n_steps": ("rollout_steps",),
    "lr": ("learning_rate",),
    "temperature": ("beta",),
    "lam": ("beta", "td_lambda"),
    "polyak": ("tau",),
    "discount": ("gamma",),
    "weight_clip": ("max_advantage",),
    "weight_temp": ("beta",),
    "gradient_steps": ("n_updates",),
}
"""What other libraries call settings."""


class RloxError(ValueError):
    """Base of every error that rlox raises on purpose."""

    def __init__(self, message: object):
        # Gymnasium raises what came from a process of its own again, with the error in the place of the message.
        super().__init__(_printable(str(message)))


class ConfigError(RloxError):
    """A setting, an algorithm or an environment id that cannot be used."""


class AlgorithmError(RloxError):
    """An algorithm's function that takes or returns something else than it must."""


class SpaceError(RloxError):
    """An observation or action space that is not supported."""


class InvalidStepError(RloxError):
    """An environment returned something that its spaces do not allow, or that is not finite."""

    row: int | None = None
    """Which observation of a batch it was, if that is known."""


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


class SaveError(RloxError):
    """A run that has ended, and could not be saved."""


class RunsFailedError(RloxError):
    """Runs of a comparison that did not end well."""


class RunInUseError(RloxError):
    """A run folder that another trainer writes to."""


class DivergedError(RloxError):
    """A loss or a parameter is no longer finite."""


def did_you_mean(word: str, known: Iterable[str], plain: Callable[[str], str] = str) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of ``known``, or a list that is not too long if none is near.

    ``plain`` gives what of the names is compared.
    """
    word, names = plain(word), {plain(name): name for name in sorted(known)}
    near = difflib.get_close_matches(word, names, n=5, cutoff=0.5)
    if near:
        # Of names that are equally near, the one with the same letters: 'awr' for 'arw', not 'marwil'.
        best = max(near, key=lambda name: (_ratio(word, name), sorted(name) == sorted(word)))
        return f" Did you mean '{names[best]}'?"
    return f" Known: {', '.join(names.values())}." if 0 < len(names) <= 60 else ""


def _ratio(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, word, name).ratio()


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``did_you_mean`` for a setting or its flag, where ``word`` may be another library's name for it."""
    names = {_plain(name): name for name in known}
    meant = next((names[name] for name in _OTHER_WORDS.get(_plain(word), ()) if name in names), None)
    return f" Did you mean '{meant}'?" if meant else did_you_mean(word, names.values(), _plain)


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_").lower()


def _printable(message: str) -> str:
    """Return a message whose names, which files may have chosen, neither fill a terminal nor control it."""
    if len(message) > 3000:
        message = f"{message[:2000]} ... {message[-500:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())
