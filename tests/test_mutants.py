"""The list of single-line faults: each has to be one that can be made."""

import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTANTS = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]


def test_every_fault_on_the_list_is_of_a_line_that_stands_once_in_the_source():
    wrong = [m for m in MUTANTS if (ROOT / "src" / "rlox" / m["file"]).read_text().count(m["old"]) != 1]
    assert not wrong


def test_every_fault_changes_something_and_is_listed_once():
    assert all(m["old"] != m["new"] for m in MUTANTS)
    twice = [key for key, n in Counter((m["file"], m["old"], m["new"]) for m in MUTANTS).items() if n > 1]
    assert not twice
