"""Scripts of benchmarks/: what they show of their results, and what they write."""

from __future__ import annotations

import itertools
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

import common

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def call(monkeypatch: pytest.MonkeyPatch, name: str, *args: str) -> None:
    """Run a script as a command would."""
    monkeypatch.setattr("sys.argv", [str(BENCHMARKS / f"{name}.py"), *args])
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("rounds", "| envpool, 32 | all | "),
        ("cost_model", "| 4 | 20 ms | "),
        ("mpo_speed", "| SAC of Stable-Baselines3 | 1 | "),
    ],
)
def test_what_was_measured_is_shown(
    name: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = BENCHMARKS / "results" / f"{name}.json"
    before = file.stat().st_mtime_ns
    call(monkeypatch, name, "--show")
    assert line in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["seeds_at_once", "cost_model"])
def test_results_that_are_not_there_are_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(common, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=rf"'{name}.json' is not there: measure first, without --show.") as stop:
        call(monkeypatch, name, "--show")
    assert "\n" not in str(stop.value)


def test_rows_are_of_the_commit_at_which_they_were_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commits = itertools.count()
    monkeypatch.setattr("rlox.runs.machine.describe_machine", lambda: {"commit": next(commits)})
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(common, "run_worker", lambda script, **task: {"seconds": 1.0})
    monkeypatch.setattr("sys.argv", ["startup.py", "--turns", "2"])
    shown: list[Any] = []
    common.run("", dict, lambda: [{"part": 1}, {"part": 2}], shown.extend)
    found = json.loads((tmp_path / "startup.json").read_text())
    assert found == {"machine": {"commit": 0}, "rows": shown}
    assert [row["turn"] for row in shown] == [0, 0, 1, 1]
