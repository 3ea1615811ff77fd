"""What an algorithm's functions must take and return. Checked while tracing, so that it costs nothing compiled."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array

from rlox.errors import AlgorithmError


def check_arguments(slot: str, function: Any, wanted: Sequence[str]) -> None:
    """Refuse what cannot be called with so many arguments.

    Raises:
        AlgorithmError: what it takes and must take.
    """
    rule = f"it must take ({', '.join(wanted)})."
    if not callable(function):
        raise AlgorithmError(f"{slot}={function!r} is not a function: {rule}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # Some functions written in C do not tell.
        return
    try:
        signature.bind(*wanted)
    except TypeError:
        plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
        raise AlgorithmError(f"{named(slot, function)} takes {inspect.Signature(plain)}: {rule}") from None


def check_per_sample(slot: str, function: Any, found: Any, shape: tuple[int, ...], *, several: bool = False) -> None:
    """Refuse anything but one number a sample (or ``several``): ``(B, 1)`` would broadcast against ``(B,)``.

    With ``several`` a ``NamedTuple`` passes: its function has a reader that knows it.

    Raises:
        AlgorithmError: what was returned.
    """
    if several and hasattr(found, "_fields"):
        return
    if any(_shape(part) != shape for part in (jax.tree.leaves(found) if several else [found])):
        or_several = ", or a tuple of such" if several else ""
        raise wrong(slot, function, found, f"one number a sample, of shape {shape}{or_several}")


def check_pair(slot: str, function: Any, found: Any, shape: tuple[int, ...]) -> None:
    """Refuse anything but a value of this shape and a dict of metrics, which have the same shape.

    Raises:
        AlgorithmError: what was returned.
    """
    if not (type(found) is tuple and len(found) == 2 and _shape(found[0]) == shape and isinstance(found[1], Mapping)):
        name, size = ("weight", f"one number a sample, of shape {shape}") if shape else ("loss", "one number")
        raise wrong(slot, function, found, f"({name}, metrics), the {name} {size}, and the metrics a dict")
    check_metrics(slot, function, found[1], shape)


def check_metrics(slot: str, function: Any, metrics: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Refuse metrics of another shape.

    Raises:
        AlgorithmError: the first such metric.
    """
    for name, value in metrics.items():
        if _shape(value) != shape:
            raise AlgorithmError(
                f"{named(slot, function)} returned '{name}' as {_describe(value)}: a metric of it must have shape "
                f"{shape}."
            )


def check_critic(function: Any, critic: Any, rounds: bool) -> None:
    """Refuse a critic that has no parameters to learn, or that rounds cannot ask for values.

    Raises:
        AlgorithmError: what was returned.
    """
    if rounds and not callable(critic):
        raise wrong("critic", function, critic, "for rounds (rollout_steps) something to call, critic(obs) -> (B,)")
    if any(not isinstance(leaf, Array) for leaf in jax.tree.leaves(critic)):
        raise wrong("critic", function, critic, "a tree of arrays, such as an equinox.Module, or None")


def wrong(slot: str, function: Any, found: Any, wanted: str) -> AlgorithmError:
    """Return the error for a function that returned something else than wanted."""
    return AlgorithmError(f"{named(slot, function)} returned {_describe(found)}: it must return {wanted}.")


def named(slot: str, function: Any) -> str:
    """Return the slot and the name of its function."""
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{slot} ({owner.__module__}.{owner.__qualname__})"


def _describe(found: Any) -> str:
    if type(found) is tuple:
        return f"a tuple of {' and '.join(map(_describe, found))}" if found else "an empty tuple"
    if found is None:
        return "None"
    shape = _shape(found)
    if isinstance(found, int | float):
        return "a number"
    return f"a {type(found).__name__}" if shape is None else f"an array of shape {shape}"


def _shape(found: Any) -> tuple[int, ...] | None:
    return () if isinstance(found, int | float) else getattr(found, "shape", None)
