"""The command line. Flags of ``rlox train`` are generated from the settings' dataclasses.

Importing this module imports no JAX, so that ``rlox --help`` is quick; each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from rlox import __version__
from rlox.cli import commands
from rlox.cli import dataset as dataset_commands
from rlox.errors import ConfigError, DivergedError, RloxError, did_you_mean

if TYPE_CHECKING:
    from rlox.core.config import Config

_USAGE = """\
usage: rlox COMMAND ...

Advantage-weighted reinforcement learning.

commands:
  train ALGORITHM    learn from an environment, e.g. rlox train awr --env CartPole-v1 --total-timesteps 50000,
                     or from data, e.g. rlox train iql --dataset hopper-medium-replay
  evaluate RUN       returns of a trained policy, or estimates of them from data
  play RUN           watch a trained policy, in a window or as a video
  export RUN FILE    a trained policy as an ONNX file, which needs only onnxruntime to act
  dataset COMMAND    info DATA, create OUT, convert DATA OUT: say what data hold, record them, change their format
  list [presets]     the algorithms, their presets, or the bundled data (datasets)

`rlox COMMAND --help` shows a command's flags.

options:
  -h, --help         show this help
  --version          show the version"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 on bad input, 1 where training diverged, 130 where it was interrupted."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        _run(args)
    except DivergedError as error:
        _fail(error, 1)
    except RloxError as error:
        _fail(error, 2)
    except KeyboardInterrupt:
        print("rlox: interrupted.", file=sys.stderr)
        sys.exit(130)


def _fail(error: Exception, code: int) -> None:
    print(f"rlox: error: {error}", file=sys.stderr)
    sys.exit(code)


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE)
        return
    if args[0] == "--version":
        print(f"rlox {__version__}")
        return
    known: dict[str, Callable[..., None]] = {
        "train": _train, "dataset": _dataset, "evaluate": commands.evaluate, "play": commands.play,
        "export": commands.export, "list": commands.list_,
    }  # fmt: skip
    command = known.get(args[0])
    if command is None:
        raise ConfigError(f"'{args[0]}' is not a command of rlox.{did_you_mean(args[0], known)}")
    if command in (_train, _dataset):
        command(args[1:])
    else:
        _call(command, f"rlox {args[0]}", args[1:])


def _dataset(args: list[str]) -> None:
    known: dict[str, Callable[..., None]] = {
        "info": dataset_commands.info, "create": dataset_commands.create, "convert": dataset_commands.convert,
    }  # fmt: skip
    if not args or args[0] in ("-h", "--help"):
        print("usage: rlox dataset info DATA | create OUT | convert DATA OUT [OPTIONS]\n")
        print("`rlox dataset create --help` shows a command's flags.")
        return
    if args[0] not in known:
        raise ConfigError(f"'{args[0]}' is not a command of rlox dataset.{did_you_mean(args[0], known)}")
    _call(known[args[0]], f"rlox dataset {args[0]}", args[1:])


def _train(args: list[str]) -> None:
    from rlox.algorithms import ALGORITHMS, find_algorithm

    if not args or args[0] in ("-h", "--help"):
        print("usage: rlox train ALGORITHM --env ID --total-timesteps N [OPTIONS]")
        print("       rlox train ALGORITHM --dataset FILE --gradient-steps N [--env ID] [OPTIONS]\n")
        print(f"algorithms: {', '.join(ALGORITHMS)}. `rlox train {next(iter(ALGORITHMS))} --help` shows the flags.")
        return
    if args[0].startswith("-"):
        raise ConfigError(f"The first argument of `rlox train` is the algorithm, not '{args[0]}': rlox train awr ....")
    name, member = find_algorithm(args[0])
    config = _preset_config(name, member.config, args[1:])
    _call(functools.partial(commands.train, algorithm=name), f"rlox train {name}", args[1:], config=config)


def _preset_config(algorithm: str, kind: type[Config], args: list[str]) -> Config:
    """Return the settings that flags start from: the preset's that is named among them, or the defaults."""
    preset, env = (_value_of(flag, args) for flag in ("--preset", "--env"))
    if preset is None:
        return kind()
    from rlox.data.bundled import is_bundled, reference
    from rlox.presets import check_preset, with_preset

    check_preset(algorithm, preset)
    dataset = _value_of("--dataset", args)
    if env is None and dataset and is_bundled(dataset):
        env = reference(dataset).env
    if env is None:
        raise ConfigError(f"--preset {preset} needs --env: presets are values for an environment.")
    return kind(**with_preset(algorithm, preset, env, None))


def _value_of(flag: str, args: list[str]) -> str | None:
    """Return the value of a flag among arguments, as ``--flag value`` or ``--flag=value``."""
    for word, following in itertools.zip_longest(args, args[1:]):
        if word == flag:
            return following
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def _call(command: Callable[..., None], prog: str, args: list[str], config: Config | None = None) -> None:
    """Call ``command`` with the flags in ``args``, and with ``config`` as flags of its own change it.

    Raises:
        ConfigError: an unknown flag (the nearest is named), a missing one, or a value of the wrong type.
    """
    function = command.func if isinstance(command, functools.partial) else command
    hints = {name: hint for name, hint in get_type_hints(function, include_extras=True).items() if name != "return"}
    fixed = command.keywords if isinstance(command, functools.partial) else {}
    parameters = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    parameters = [p for p in parameters if p.name not in fixed]
    if config:
        parameters = [
            p.replace(annotation=Annotated[type(config), tyro.conf.arg(name="")], default=config)
            if p.name == "config"
            else p
            for p in parameters
        ]

    def collect(*values: Any, **named: Any) -> Callable[[], None]:
        return functools.partial(command, *values, **named)

    collect.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    collect.__annotations__ = {p.name: p.annotation for p in parameters}
    collect.__doc__ = function.__doc__
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), _wide(not {"-h", "--help"} & set(args)):
            call, unknown = tyro.cli(collect, prog=prog, args=args, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(f"{_first_sentence(messages.getvalue())} See `{prog} --help`.") from None
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), unknown[0]).split("=")[0]
        names = [p.name for p in parameters] + [field.name for field in (dataclasses.fields(config) if config else ())]
        known = ["--" + name.replace("_", "-") for name in names if name != "config"]
        raise ConfigError(f"'{flag}' is not a flag of `{prog}`.{did_you_mean(flag, known)}")
    call()


@contextlib.contextmanager
def _wide(active: bool) -> Iterator[None]:
    """Make tyro think that the terminal is wide, so that its messages are not wrapped."""
    before = os.environ.get("COLUMNS")
    if active:
        os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def _first_sentence(box: str) -> str:
    """Return the message in one of tyro's boxes, without its frame, its title and its help text."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    message = itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines[1:]))
    return " ".join(" ".join(message).split()).rstrip(".") + "."
