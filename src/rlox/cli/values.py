"""Types of flags: what they are called in messages, and which values of a file have them."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App, ArgumentCollection, CoercionError

from rlox.errors import ConfigError


def describe_type(hint: Any) -> str:
    """Return what a value of this type is called in a message."""
    arms = [arm for arm in arms_of(hint) if arm is not types.NoneType]
    words = dict.fromkeys(_describe_arm(arm) for arm in arms)
    return " or ".join([*words, *(["none"] if types.NoneType in arms_of(hint) and arms[0] in (int, float) else [])])


def _describe_arm(hint: Any) -> str:
    if get_origin(hint) is Literal:
        *others, last = (repr(choice) for choice in get_args(hint))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(hint) is tuple:
        return {int: "several whole numbers", float: "a number, or several"}.get(get_args(hint)[0], "several values")
    return {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(hint, "text")


def arms_of(hint: Any) -> tuple[Any, ...]:
    """Return the types that a union is of, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def fits(hint: Any, value: object) -> bool:
    """Return whether a value of a TOML file has the type of a flag; ``"none"`` stands for None."""
    for arm in arms_of(hint):
        if arm is types.NoneType:
            fit = value == "none"
        elif get_origin(arm) is tuple:
            fit = isinstance(value, list) and all(fits(get_args(arm)[0], item) for item in value)
        elif arm is float:
            fit = isinstance(value, int | float) and not isinstance(value, bool)
        elif arm in (int, bool):
            fit = type(value) is arm
        else:
            fit = isinstance(value, str)
        if fit:
            return True
    return False


def check_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse ``7.6`` where a whole number is asked for, which cyclopts would round."""
    for argument in arguments:
        scalars = {get_args(arm)[0] if get_origin(arm) is tuple else arm for arm in arms_of(argument.hint)}
        if int in scalars and float not in scalars:
            for token in argument.tokens:
                if "." in token.value:
                    raise CoercionError(argument=argument, token=token, target_type=int)


def check_no_effect(why: str, **flags: Any) -> None:
    """Refuse flags that were given, so that they are neither None nor False, and have no effect.

    Raises:
        ConfigError: the first of them.
    """
    for name, value in flags.items():
        if value is not None and value is not False:
            told = " ".join(map(str, value)) if isinstance(value, tuple) else value
            given = f"--{name.replace('_', '-')}" + ("" if value is True else f" {told}")
            raise ConfigError(f"{given} has no effect {why}.")
