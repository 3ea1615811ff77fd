"""How soon one can start: importing rlox, `rlox --help`, and the first training step.

    python benchmarks/startup.py

Each is a fresh process; they alternate. The first training step is that of `Trainer("awr", env="CartPole-v1")` with the
defaults: after `learning_starts` random steps, compilation included. Stages are timed from the start of the process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from common import (
    Row,
    describe_machine,
    make_parser,
    print_machine,
    print_table,
    run_process,
    run_worker,
    start,
    write_results,
)


def worker(began: float) -> Row:
    """Return the seconds from ``began``, on the machine's monotonic clock, to the end of each stage."""
    ends = {}
    from rlox import Trainer

    ends["Trainer imported"] = time.monotonic() - began
    trainer = Trainer("awr", env="CartPole-v1")
    ends["Trainer made"] = time.monotonic() - began
    config: Any = trainer.config
    trainer.train(config.learning_starts - 1)
    ends["random steps taken"] = time.monotonic() - began
    trainer.train(1)
    ends["first training step taken"] = time.monotonic() - began
    if trainer.gradient_steps != 1:
        raise SystemExit(f"{trainer.gradient_steps} training steps were taken, not one.")
    return {"stages": ends}


def measure(args: argparse.Namespace) -> None:
    """Run the commands alternately, then print and write."""
    script = Path(sysconfig.get_path("scripts")) / "rlox"
    rlox = [str(script)] if script.exists() else [sys.executable, "-m", "rlox"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import rlox": [sys.executable, "-c", "import rlox"],
        "rlox --help": [*rlox, "--help"],
        "from rlox import Trainer": [sys.executable, "-c", "from rlox import Trainer"],
    }
    machine = describe_machine()
    rows: list[Row] = []
    # The first turn fills the file cache, and is not counted.
    for round_ in range(-1, args.rounds):
        seconds = {name: run_process(command).seconds for name, command in commands.items()}
        seconds |= run_worker(__file__, began=time.monotonic())["stages"]
        if round_ >= 0:
            rows.append({"round": round_, "seconds": seconds})
            write_results(args.results / "startup.json", machine, {"rounds": args.rounds}, rows)
    lines = []
    for name in rows[0]["seconds"]:
        values = [row["seconds"][name] for row in rows]
        lines.append([name, *(f"{x:.2f}" for x in (statistics.median(values), min(values), max(values)))])
    print()
    print_table(["seconds", "median", "least", "most"], lines)
    print_machine(machine)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns (7)")
    measure(parser.parse_args())


if __name__ == "__main__":
    start(main, worker)
