"""The command line. Flags of ``rlox train`` are made from the settings' dataclasses.

Importing this module imports neither JAX nor Gymnasium, so that ``rlox --help`` is quick: each command imports what
it needs.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from rlox import __version__
from rlox.cli.errors import explain
from rlox.cli.values import check_whole_numbers
from rlox.errors import DivergedError, RloxError, RunsFailedError, SaveError, one_line

GLOBAL = Group("Global options", sort_key=9)

app = App(
    name="rlox",
    help="Advantage-weighted reinforcement learning. `rlox COMMAND --help` shows the flags of a command.",
    version=__version__,
    help_format="plaintext",
    config=check_whole_numbers,
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
# The command's own parser answers these, after --import has had its effect.
app.meta.help_flags = app.meta.version_flags = ()
app.meta.suppress_keyboard_interrupt = False
for flag in ("--help", "--version"):
    app[flag].group = (GLOBAL,)
app.register_install_completion_command(group=GLOBAL, help="Install completion for the shell that is running.")

for place, (name, target, summary) in enumerate(
    [
        ("train", "rlox.cli.train:app", "Learn a policy from an environment, from data, or from both."),
        ("resume", "rlox.cli.train:resume", "Continue a run that was stopped."),
        ("compare", "rlox.cli.compare:compare", "Compare algorithms or settings over seeds: a table and a report."),
        ("tune", "rlox.cli.tune:app", "Search for the best settings of an algorithm: a table and a file of them."),
        ("evaluate", "rlox.cli.runs:evaluate", "Print the returns of a trained policy, or estimate them."),
        ("play", "rlox.cli.runs:play", "Watch a trained policy, in a window or as a video."),
        ("plot", "rlox.cli.pictures:plot", "Draw learning curves over seeds."),
        ("report", "rlox.cli.pictures:report", "Write a page with curves, settings and what the numbers say."),
        ("watch", "rlox.cli.pictures:watch", "Serve that page while runs go on."),
        ("export", "rlox.cli.runs:export", "Write a trained policy to an ONNX file."),
        ("dataset", "rlox.cli.dataset:app", "Describe, record and convert data."),
        ("list", "rlox.cli.listing:list_", "List algorithms, presets or bundled data."),
    ]
):
    # Named again, since a function would take them from the meta app, which has none.
    flags = {} if target.endswith(":app") else {"help_flags": ("--help", "-h")}
    app.command(target, name=name, help=summary, sort_key=place, **flags)

# What `rlox compare` starts; people have `rlox compare`.
app.command("rlox.cli.at_once:learn", name="learn-at-once", show=False)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    modules: Annotated[
        tuple[str, ...],
        Parameter(
            name="--import",
            negative=(),
            metavar="MODULE",
            group=GLOBAL,
            show_default=False,
            help="Module to import first, such as one that registers an algorithm or an environment of your own; "
            "may be repeated.",
        ),
    ] = (),
) -> None:
    from rlox.modules import IMPORTED, import_named

    try:
        if modules:
            for name in modules:
                import_named(name, f"--import {name}")
            from rlox.cli import train, tune

            train.add_algorithms()
            tune.add_algorithms()
        app(tokens)
    finally:
        # A Python program that calls this goes on with other modules than the command's.
        IMPORTED.clear()


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    It exits with 2 on bad input, with 1 if training diverged or could not be saved, and with 128 + N if signal N
    stopped it.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line_warnings()
            app.meta(args)
    except CycloptsError as error:
        _fail(explain(error), 2)
    except (DivergedError, RunsFailedError, SaveError) as error:
        _fail(str(error), 1)
    except RloxError as error:
        _fail(str(error), 2)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not _can_print():
            # What reads the output, such as `head`, has had enough of it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        _fail(" ".join([one_line(error), *getattr(error, "__notes__", [])]), 2)
    except KeyboardInterrupt as stop:
        print(f"rlox: {stop}" if str(stop) else "rlox: interrupted.", file=sys.stderr)
        stopped_by = getattr(stop, "number", None)
        if stopped_by is None and args is None:
            # Threads of XLA may still compute, and crash where Python is taken down around them.
            sys.stdout.flush()
            os._exit(130)
        sys.exit(128 + (stopped_by or 2))


def _can_print() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True


def _one_line_warnings() -> Callable[..., None]:
    """Return what shows each warning once, in one line."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: object) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            print(f"rlox: warning: {message}", file=sys.stderr, flush=True)

    return show


def _fail(message: str, code: int) -> None:
    print(f"rlox: error: {message}", file=sys.stderr)
    sys.exit(code)
