"""What cyclopts found wrong with a command line, as one line."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from cyclopts import (
    Argument,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from rlox import habits
from rlox.cli.values import arms_of, describe_type
from rlox.errors import RloxError, did_you_mean, one_line, suggest
from rlox.presets import TUNED


def explain(error: CycloptsError) -> str:
    """Return one line that says what is wrong and what was probably meant."""
    command = " ".join(["rlox", *(error.command_chain or ())])
    if isinstance(error.__cause__, RloxError):
        return str(error.__cause__)
    if isinstance(error, UnknownCommandError):
        return _unknown_command(error, command)
    if isinstance(error, UnknownOptionError):
        return _unknown_flag(error, command)
    if isinstance(error, MissingArgumentError):
        return _missing(error, command)
    if isinstance(error, CoercionError) and error.argument is not None:
        return _wrong_value(error, error.argument)
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword} is given more than once."
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        token = error.unused_tokens[0]
        switch = " A switch is --NAME or --no-NAME, without a value." if token.lower() in ("true", "false") else ""
        return f"'{token}' is one argument too many for `{command}`.{switch} See `{command} --help`."
    if isinstance(error, ValidationError):
        return one_line(ValueError(error.exception_message))
    error.verbose = False
    return one_line(error)


def _unknown_command(error: UnknownCommandError, command: str) -> str:
    token, app = (error.unused_tokens or [""])[0], error.app
    known = list(app) if app else []
    if command in ("rlox train", "rlox tune"):
        algorithms = [name for name in known if name.islower() and not name.startswith("-")]
        if token.startswith("-"):
            return f"The first argument of `{command}` is the algorithm, not '{token}': `{command} awr {token} ...`."
        if token.lower() == TUNED and command == "rlox tune":
            return f"'{token}' is the best of several algorithms: name one of them, such as `{command} awr`."
        near = did_you_mean(token.lower(), algorithms)
        own = "" if "Did you mean" in near else " One of your own needs --import MODULE."
        return f"'{token}' is not an algorithm of rlox.{near}{own}"
    if token.startswith("-"):
        flag = token.partition("=")[0]
        return f"'{flag}' is not a flag of `{command}`.{did_you_mean(flag, [*_flags(known), '--import'])}"
    if command == "rlox" and token in habits.COMMANDS:
        return f"'{token}' is not a command of rlox. Did you mean '{habits.COMMANDS[token]}'?"
    return f"'{token}' is not a command of {command}.{did_you_mean(token, set(known) - set(_flags(known)))}"


def _flags(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith("-")]


def _unknown_flag(error: UnknownOptionError, command: str) -> str:
    flag = (error.token.keyword or error.token.value).partition("=")[0]
    known = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    if told := habits.FLAGS.get(flag.lstrip("-").replace("-", "_")):
        return f"'{flag}' is not a flag of `{command}`. {told}"
    near = suggest(flag, [*_flags(known), "--import", "--help"])
    if "Did you mean" not in near:
        near = f" See `{command} --help`."
    return f"'{flag}' is not a flag of `{command}`.{near}"


def _missing(error: MissingArgumentError, command: str) -> str:
    if error.argument is None:
        return one_line(error)
    name = error.keyword or error.argument.name
    if name.startswith("-"):
        return f"{name} needs a value: {error.argument.parameter.metavar or describe_type(error.argument.hint)}."
    return f"`{command}` needs {error.argument.parameter.metavar or name}. See `{command} --help`."


def _wrong_value(error: CoercionError, argument: Argument) -> str:
    token = error.token or next(iter(argument.tokens), None)
    value = token.value if token else ""
    name = argument.name if argument.name.startswith("-") else argument.parameter.metavar or argument.name
    if token and token.source not in ("", "cli"):
        name = f"'{token.source}': {argument.field_info.name}"
    choices = [str(c) for arm in arms_of(argument.hint) if get_origin(arm) is Literal for c in get_args(arm)]
    if choices:
        near = did_you_mean(value, choices)
        what = f"{name} '{value}'" if argument.field_info.is_keyword_only or token is None else f"'{value}'"
        wanted = describe_type(argument.hint)
        return f"{what} is not known: it must be {wanted}.{near if 'Did you mean' in near else ''}"
    return f"{name} '{value}' has the wrong type: it must be {describe_type(argument.hint)}."
