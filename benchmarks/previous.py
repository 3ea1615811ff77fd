"""The two quick starts, compared with the published package rlox 1.2.0: time, memory and return of both, alternately.

python benchmarks/previous.py
"""

from __future__ import annotations

import time
import tomllib
from typing import Any

from common import ROOT, Row, elsewhere, greedy_return, other_python, print_table, ratios, run, select, spread

PLAN = tomllib.loads((ROOT / "benchmarks" / "quickstart.toml").read_text())
SIDES = ("this", "other")


def other_policy(trainer: Any) -> Any:
    """Return the greedy policy of rlox 1.2.0, whose own ``predict`` raises for AWR."""
    import gymnasium as gym
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]

    algo = trainer.algo
    space = algo.env.action_space

    def policy(obs: Any) -> Any:
        with torch.no_grad():
            out = algo.actor(torch.as_tensor(obs, dtype=torch.float32).unsqueeze(0)).squeeze(0).numpy()
        return np.clip(out, space.low, space.high) if isinstance(space, gym.spaces.Box) else int(out.argmax())

    return policy


def worker(side: str, env: str) -> Row:
    """Run one quick start, and evaluate what it learned."""
    from rlox import Trainer

    config = dict(PLAN["on"].get(env, {}))
    steps = config.pop("total_timesteps", PLAN["total_timesteps"])
    trainer: Any = Trainer("awr", env=env, config=config or None, seed=42)
    begin = time.monotonic()
    trainer.train(total_timesteps=steps)
    trained = time.monotonic()
    found = greedy_return(env, trainer.predict if side == "this" else other_policy(trainer))
    return {
        "steps": steps,
        "training_seconds": trained - begin,
        "greedy_return": found,
        "evaluation_seconds": time.monotonic() - trained,
    }


def where(task: Row) -> Row:
    if task["side"] == "this":
        return {}
    return {"python": other_python("torch==2.13.0", "rlox==1.2.0"), "env": elsewhere()}


def show(rows: list[Row]) -> None:
    rows = [{**row, "unevaluated_seconds": row["process_seconds"] - row["evaluation_seconds"]} for row in rows]
    lines = []
    for env in PLAN["env"]:
        for key in ("unevaluated_seconds", "training_seconds", "peak_mib", "greedy_return"):
            this, other = (select(rows, key, env=env, side=side) for side in SIDES)
            ratio = "" if key == "greedy_return" else ratios(this, other)
            lines.append([f"{env}: {key}", spread(this), spread(other), ratio])
    print_table(["", "this rlox", "rlox 1.2.0", "this / 1.2.0"], lines)


if __name__ == "__main__":
    run(
        __doc__, worker, lambda: [{"side": s, "env": e} for e in PLAN["env"] for s in SIDES], show, turns=3, where=where
    )
