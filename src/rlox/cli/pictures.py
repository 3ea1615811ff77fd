"""Commands that show runs: a picture, a page, and a page that follows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from rlox.errors import ConfigError

RunFolder = Annotated[Path, Parameter(metavar="RUN")]


def plot(
    *runs: RunFolder,
    metric: str | None = None,
    over: Literal["steps", "seconds"] = "steps",
    output: Path | None = None,
) -> None:
    """Draw learning curves over seeds: a panel for each environment, a line for each group of runs.

    Parameters
    ----------
    runs
        Folders of runs, or with runs below them.
    metric
        What to draw, such as weight/effective_sample_size; returns by default.
    over
        Steps, or seconds of training, evaluations included.
    output
        File to write, ending in .png, .svg or .pdf; by default curves.png in the folder, or here if there are several.
    """
    from rlox.runs.history import find_runs
    from rlox.runs.plots import plot as draw

    found = find_runs(runs)
    print(f"Wrote {draw(found, output or _beside(runs, 'curves.png'), metric, over=over)}{_counted(len(found))}.")


def report(*runs: RunFolder, output: Path | None = None) -> None:
    """Write a page with curves, settings and what the numbers say of the runs. It needs no other file, and no network.

    Parameters
    ----------
    runs
        Folders of runs, or with runs below them.
    output
        File to write, ending in .html; by default report.html in the folder, or here if there are several.
    """
    from rlox.runs.history import find_runs
    from rlox.runs.report import write_report

    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"output '{output}' must end in .html: the report is a page.")
    found = find_runs(runs)
    print(f"Wrote {write_report(found, output or _beside(runs, 'report.html'))}{_counted(len(found))}.")


def watch(
    *runs: RunFolder,
    port: int | None = None,
    open_: Annotated[bool, Parameter(name="--open", negative=(), show_default=False)] = False,
) -> None:
    """Serve the page of `rlox report` to this machine, and renew it while runs go on. Ctrl-C ends it.

    Parameters
    ----------
    runs
        Folders of runs, or of runs to come.
    port
        Of the server; by default a free one from 8420 on.
    open_
        Open the page in the browser.
    """
    import webbrowser

    from rlox.runs.watch import Watch

    if not runs:
        raise ConfigError("Name the folder of a run, or one that has runs below it.")
    with Watch(runs, port) as server:
        print(f"Watch {', '.join(map(str, runs))} at {server.url} (Ctrl-C ends it).", flush=True)
        if open_:
            webbrowser.open(server.url)
        server.serve_forever()


def _beside(runs: Sequence[Path], name: str) -> Path:
    """Return where a file about runs is looked for: in their folder, if there is one."""
    return runs[0] / name if len(runs) == 1 and runs[0].is_dir() else Path(name)


def _counted(n: int) -> str:
    return f", of {n} runs" if n > 1 else ""
