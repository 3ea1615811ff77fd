"""How soon one can start: importing rlox, `rlox --help`, and the first training step.

    python benchmarks/startup.py

Each is a fresh process; they alternate. The first training step is that of `Trainer("awr", env="CartPole-v1")` with the
defaults: after `learning_starts` random steps, compilation included. Stages are timed from the start of the process.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from common import Row, print_table, run, run_process

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import rlox": ["-c", "import rlox"],
    "rlox --help": ["-m", "rlox", "--help"],
    "from rlox import Trainer": ["-c", "from rlox import Trainer"],
}


def stages(began: float) -> Row:
    """Return the seconds from ``began``, on the machine's monotonic clock, to the end of each stage."""
    ends = {}
    from rlox import Trainer

    trainer = Trainer("awr", env="CartPole-v1")
    ends["Trainer made"] = time.monotonic() - began
    config: Any = trainer.config
    trainer.train(config.learning_starts - 1)
    ends["random steps taken"] = time.monotonic() - began
    trainer.train(1)
    ends["first training step taken"] = time.monotonic() - began
    if trainer.gradient_steps != 1:
        raise SystemExit(f"{trainer.gradient_steps} training steps were taken, not one.")
    return ends


def worker(began: float | None = None) -> Row:
    """Return the seconds of everything; or, in a process that began then, those of the stages."""
    if began is not None:
        return stages(began)
    # The first fills the file cache, and is not counted.
    run_process([sys.executable, *COMMANDS["from rlox import Trainer"]])
    seconds = {name: run_process([sys.executable, *command])[1] for name, command in COMMANDS.items()}
    output, *_ = run_process([sys.executable, __file__, "worker", json.dumps({"began": time.monotonic()})])
    return {"seconds": seconds | json.loads(output.splitlines()[-1])}


def show(rows: list[Row]) -> None:
    lines = []
    for name in rows[0]["seconds"]:
        values = [row["seconds"][name] for row in rows]
        lines.append([name, *(f"{x:.2f}" for x in (statistics.median(values), min(values), max(values)))])
    print_table(["seconds", "median", "min", "max"], lines)


if __name__ == "__main__":
    run(__doc__, worker, lambda: [{}], show, turns=7)
