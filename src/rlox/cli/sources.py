"""Where settings come from besides flags: a TOML file, and below it a preset. Cyclopts applies them in this order."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_origin

from cyclopts import App, Argument, ArgumentCollection
from cyclopts.argument import update_argument_collection

from rlox.cli.values import arms_of, describe_type, fits
from rlox.errors import ConfigError, one_line, suggest

_LONGEST = 2**20
"""Bytes of a file of settings."""


def apply_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give the flags that are not on the command line the values of the ``--config`` file.

    Raises:
        ConfigError: no such file, broken TOML, another algorithm's, an unknown key or a value of a wrong type.
    """
    flags = _by_name(arguments)
    file = _value(flags["config"])
    if file is None:
        return
    values = read_toml(Path(file))
    algorithm, command = values.pop("algorithm", None), commands[-1].lower()
    if algorithm is not None and str(algorithm).lower() != command:
        raise ConfigError(
            f"'{file}' is for the algorithm '{algorithm}': use `rlox {commands[0]} {algorithm}`, not {command}."
        )
    known = {name: flag for name, flag in flags.items() if name not in ("config", "print_config")}
    for name, value in values.items():
        if name not in known:
            if isinstance(value, dict):
                raise ConfigError(
                    f"'{file}': [{name}] is a table, but settings and options stand at the top of the file."
                )
            near = suggest(name, known)
            near = near if "Did you mean" in near else f" See `rlox {commands[0]} {command} --help`."
            raise ConfigError(f"'{file}': '{name}' is not a setting of {command} or an option of a run.{near}")
        if not fits(known[name].hint, value):
            wanted = describe_type(known[name].hint)
            raise ConfigError(f"'{file}': {name} = {value!r} has the wrong type: it must be {wanted}.")
    env = values.get("env", "")
    if ":" in env and not flags["env"].tokens:
        raise ConfigError(
            f"'{file}': env = '{env}' names a module, and a file never imports one: pass --env {env} as well."
        )
    _update(values, str(file), arguments)


def apply_preset(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give the settings that neither flags nor the file set the values of the preset.

    Raises:
        ConfigError: no such preset, or no environment to choose its values by.
    """
    from rlox.assemble import is_discrete
    from rlox.data.bundled import is_bundled, reference
    from rlox.presets import check_preset, with_preset

    flags = _by_name(arguments)
    preset, env, dataset = (_value(flags[name]) for name in ("preset", "env", "dataset"))
    if preset is None:
        return
    algorithm = commands[-1].lower()
    check_preset(algorithm, preset)
    if env is None and dataset and is_bundled(dataset):
        env = reference(dataset).env
    if env is None:
        raise ConfigError(f"--preset {preset} needs --env: presets are values for an environment.")
    _update(with_preset(algorithm, preset, env, lambda: is_discrete(env, None)), f"preset {preset}", arguments)


def _by_name(arguments: ArgumentCollection) -> dict[str, Argument]:
    """Return the flags by their names in Python."""
    return {argument.field_info.name: argument for argument in arguments if not argument.children}


def _value(flag: Argument) -> str | None:
    """Return what a flag that takes text was given, on the command line or by a file."""
    return flag.tokens[-1].value if flag.tokens else None


def read_toml(file: Path) -> dict[str, Any]:
    """Return what a TOML file has, its keys at the top with underscores.

    Raises:
        ConfigError: no such file, one that is too long, or broken TOML.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(_LONGEST + 1)
        if len(raw) > _LONGEST:
            raise ConfigError(f"--config '{file}' has more than {_LONGEST:,} bytes: it is no file of settings.")
        values = tomllib.loads(raw.decode())
        for name, value in values.items():
            _check_value(value, name, file)
    except FileNotFoundError:
        raise ConfigError(f"--config '{file}': there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config '{file}' cannot be read: {one_line(error)}") from None
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"--config '{file}' is nested too deeply: settings stand at the top of the file.") from None
    except ValueError as error:  # Besides TOML's own error, those of numbers and dates.
        raise ConfigError(f"--config '{file}' is not valid TOML: {one_line(error)}.") from None
    return {name.replace("-", "_"): value for name, value in values.items()}


def _check_value(value: Any, name: str, file: Path) -> None:
    """Refuse what TOML allows, but neither C nor the system takes."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_value(part, name, file)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"--config '{file}': '{name}' is too large: whole numbers have 64 bits.")
    elif isinstance(value, str) and "\0" in value:
        raise ConfigError(f"--config '{file}': '{name}' holds a zero byte, which no name has: remove it.")


def _update(values: dict[str, Any], source: str, arguments: ArgumentCollection) -> None:
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    update_argument_collection(found, source, arguments, root_keys=(), allow_unknown=False)
    for name, flag in _by_name(arguments).items():
        value = found.get(name)
        # One number in a list is read as that number where the setting takes both.
        if isinstance(value, tuple) and len(value) == 1 and _takes_both(flag.hint) and flag.tokens[0].source == source:
            flag.tokens[0] = flag.tokens[0].evolve(value="", implicit_value=value)


def _takes_both(hint: Any) -> bool:
    """Return whether a setting is a whole number, or one for each of several."""
    arms = arms_of(hint)
    return int in arms and any(get_origin(arm) is tuple for arm in arms)
