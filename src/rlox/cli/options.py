"""Flags of ``rlox train``: the options of a run, and the settings of an algorithm."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import App, Group, Parameter, Token

from rlox.cli.report import describe_algorithm
from rlox.cli.values import arms_of
from rlox.data.reading import ACTIONS, Reading

F = TypeVar("F", bound=Callable[..., Any])
RUN = Group("Run", sort_key=1)
DATA = Group("Data that are a file", sort_key=1.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to learn from, for how long, and what to keep of it."""

    env: str | None = None
    """Environment to learn from or to evaluate in: a Gymnasium id, or module:Id, whose module is imported."""
    total_timesteps: int | None = None
    """Environment steps to learn from."""
    dataset: str | None = None
    """Data to learn from: a file (.npz, .hdf5, .parquet, .csv), a Minari id or folder, one of `rlox list datasets`."""
    gradient_steps: int | None = None
    """Gradient steps on the data, before any environment step; 20,000 by default."""
    preset: str | None = None
    """Named set of settings, paper or tuned, under those of a file and of flags (rlox list presets)."""
    config: Path | None = None
    """TOML file of settings and of these options, under the flags."""
    print_config: Annotated[bool, Parameter(negative=(), show_default=False)] = False
    """Print the whole run as a file for --config, and train nothing."""
    seed: int = 42
    """Covers networks, sampling, environments and random actions."""
    run_dir: Path | None = None
    """New folder for configuration, metrics and checkpoints; by default one under runs/."""
    logger: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = ()
    """Where metrics go besides the run folder: csv, trackio, wandb, mlflow, one or several."""
    eval_interval: int | None = None
    """Steps between evaluations; none by default."""
    n_eval_episodes: int = 20
    """Episodes of an evaluation, and of the one at the end."""
    log_interval: int = 1000
    """Steps between records of metrics."""
    checkpoint_interval: int = 10_000
    """Steps between checkpoints."""
    checkpoint_minutes: float | None = 10.0
    """Minutes after which there is a checkpoint in any case."""
    checkpoint_replay: bool = True
    """Whether checkpoints hold the replay; without it they are small, and a run continues with an empty one."""
    resume: Annotated[bool, Parameter(negative=(), show_default=False)] = False
    """Continue the run in the folder, if there is one; with another --total-timesteps or --learning-rate if wanted."""
    seeds: int | None = None
    """Runs with so many seeds, from --seed on; the same command again goes on with what is missing."""
    processes: int | None = None
    """With --seeds, runs at a time; as many as there are cores by default."""
    ray: str | None = None
    """With --seeds or --n-workers, use Ray: local for one on this machine, or the address of a cluster."""
    storage: str | None = None
    """Address where runs of a cluster are kept, such as s3://bucket/runs; by default its machines share --run-dir."""


def with_flags(*flags: inspect.Parameter) -> Callable[[F], F]:
    """Return a decorator that gives a command flags in the place of its last parameter, ``**rest``."""

    def give(command: F) -> F:
        own = [*inspect.signature(command).parameters.values()][:-1]
        command.__signature__ = inspect.Signature([*own, *flags])  # pyright: ignore[reportFunctionMemberAccess]
        return command

    return give


def flags_to_change(kinds: Iterable[type], group: Group) -> list[inspect.Parameter]:
    """Return a flag for each field of some dataclasses; those that a run has to keep are not in the help."""
    found: dict[str, inspect.Parameter] = {}
    for kind in kinds:
        fixed = {field.name for field in dataclasses.fields(kind) if field.metadata.get("fixed")}
        for parameter in setting_parameters("the run", kind):
            hint, flag = get_args(parameter.annotation)
            about = Parameter(
                name=flag.name,
                help=flag.help,
                group=group,
                show=parameter.name not in fixed,
                consume_multiple=flag.consume_multiple,
                n_tokens=flag.n_tokens,
                negative_iterable=(),
                show_default=False,
                converter=flag.converter,
            )
            if parameter.name in found:
                hint = Union[get_args(found[parameter.name].annotation)[0], hint]  # noqa: UP007
            found[parameter.name] = parameter.replace(annotation=Annotated[hint, about])
    return list(found.values())


def column_flags() -> list[inspect.Parameter]:
    """Return the flags that name columns, for commands with an environment, which says what the actions are."""
    return [flag for flag in flags_to_change([Reading], DATA) if flag.name not in ACTIONS]


def take_reading(given: dict[str, Any]) -> Reading:
    """Take out of what flags gave how data are read.

    Raises:
        DatasetError: bounds of actions that are none.
    """
    return Reading(
        **{field.name: given.pop(field.name) for field in dataclasses.fields(Reading) if field.name in given}
    )


def setting_parameters(algorithm: str, kind: type) -> list[inspect.Parameter]:
    """Return a parameter for each setting, with its docstring as help, in the groups that the settings name."""
    groups: dict[str, Group] = {"Algorithm": Group(f"Settings of {algorithm}", sort_key=2)}
    hints, helps = get_type_hints(kind), _field_docstrings(kind)
    parameters = []
    for field in dataclasses.fields(kind):
        named = field.metadata.get("group", "Algorithm")
        several = any(get_origin(arm) is tuple for arm in arms_of(hints[field.name]))
        flag = Parameter(
            name="--" + field.name.replace("_", "-"),
            help=helps.get(field.name, ""),
            group=groups.setdefault(named, Group(named, sort_key=3 + len(groups))),
            consume_multiple=(1, None) if several else None,
            n_tokens=-1 if several else None,
            negative_iterable=(),
            show_default=_shown,
            converter=_text_or_none if {str, types.NoneType} <= {*arms_of(hints[field.name])} else None,
        )
        annotation = Annotated[hints[field.name], flag]
        parameters.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=annotation
            )
        )
    return parameters


def _text_or_none(_: Any, tokens: Sequence[Token]) -> str | None:
    return None if tokens[0].value == "none" else tokens[0].value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _shown(default: Any) -> str:
    """Return a default as it would be typed."""
    if isinstance(default, tuple):
        return " ".join(map(_shown, default)) or "none"
    if isinstance(default, float):
        return f"{default:.4g}"
    return "none" if default is None else str(default)


def _field_docstrings(kind: type) -> Mapping[str, str]:
    """Return the string literals below a dataclass's fields, those of its bases included."""
    return {name: text for base in reversed(kind.__mro__) for name, text in _own_docstrings(base).items()}


@functools.cache
def _own_docstrings(kind: type) -> Mapping[str, str]:
    if not dataclasses.is_dataclass(kind):
        return {}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except OSError:  # A class of an interactive session has no source.
        return {}
    found = {}
    for field, text in pairwise(getattr(tree.body[0], "body", [])):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def add_commands(app: App, command: Callable[[str, Any], Callable[..., None]]) -> None:
    """Make a command of every algorithm that has none yet, in small and in capital letters."""
    from rlox.algorithms import ALGORITHMS

    for name, algorithm in ALGORITHMS.items():
        if name not in app:
            run, summary = command(name, algorithm), describe_algorithm(algorithm.config)
            app.command(App(name=name, help=summary, default_command=run))
            app.command(App(name=name.upper(), help=summary, default_command=run, show=False))
