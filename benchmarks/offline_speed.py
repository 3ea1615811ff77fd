"""Learning from data, ours against d3rlpy: gradient steps a second and peak memory, alternately.

    taskset -c 0 python benchmarks/offline_speed.py

Both sides take the same columns of the same file, batches of 256, two hidden layers with ReLU, Adam with steps of 3e-4,
gamma 0.99 and, if it has any, two Q functions with tau 0.005; each algorithm has its published settings (ours are those
of `offline_returns.toml`). These are not all d3rlpy's defaults: its BC takes steps of 1e-3, its AWAC batches of 1024,
BC and CRR of 100, and its CRR one Q function with a hard target. Rewards and observations are not scaled; actions are
in units of half their range on both sides. One thread.

What remains different: d3rlpy squashes every mean by tanh, ours are clipped; its AWAC, IQL and CRR bound log std by
[-6, 0], [-5, 2] and [-20, 2] and start near a std of 0.05, 0.2 and 1, CRR with one for each state, where ours starts at
1 over a floor of 0.05, the same in every state. Its BC is the squared error of the mean. The target of its AWAC takes
actions of a Gaussian squashed after its noise, and has an entropy bonus of weight 1. The advantage of its CRR is of the
mean of the Q functions, its target of a target policy.
"""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common import ONE_THREAD, ROOT, Row, elsewhere, other_python, print_table, ratios, run, select, spread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PLAN = tomllib.loads((ROOT / "benchmarks" / "offline_returns.toml").read_text())
DATA, STEPS, WARM_UP, HIDDEN = "hopper-medium", 2_000, 100, 256
BOUNDS = {"pendulum": 2.0, "hopper": 1.0}  # of actions, on either side

_Q = {"gamma": 0.99, "tau": 0.005, "n_critics": 2, "actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4}
_CRR = {"beta": 1.0, "n_action_samples": 4, "weight_type": "exp", "advantage_type": "mean", "max_weight": 20.0}
THEIRS: dict[str, dict[str, Any]] = {
    "bc": {"learning_rate": 3e-4, "policy_type": "deterministic"},
    "awac": {"lam": 1.0, "n_action_samples": 1, **_Q},
    "crr": {"target_update_type": "soft", **_CRR, **_Q},
    "iql": {"weight_temp": 3.0, "expectile": 0.7, "max_weight": 100.0, **_Q},
}


def where(task: Row) -> Row:
    """Return the process of a side."""
    if task["side"] == "ours":
        return {"env": {**os.environ, **ONE_THREAD}}
    return {"python": other_python("torch==2.13.0", "d3rlpy==2.8.1"), "env": elsewhere(**ONE_THREAD)}


def worker(side: str, algorithm: str) -> Row:
    """Learn, timed after a warm-up."""
    if side == "ours":
        from rlox import Trainer

        config: dict[str, Any] = {"batch_size": 256, "hidden": HIDDEN, **PLAN["settings"][algorithm]}
        trainer = Trainer(algorithm, dataset=DATA, config=config, seed=0)
        step: Any = lambda n: trainer.train_offline(n, log_interval=n, progress=False)  # noqa: E731
    else:
        step, _ = theirs(algorithm, DATA, HIDDEN, seed=0)
    step(WARM_UP)
    return timed(step, STEPS)


def timed(step: Callable[[int], None], n: int) -> Row:
    """Learn so many steps; returns how long it took."""
    begin, cpu = time.perf_counter(), time.process_time()
    step(n)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    return {"seconds": seconds, "steps_per_second": n / seconds, "steps_per_cpu_second": n / cpu_seconds}


def read(data: str) -> dict[str, NDArray[Any]]:
    """Return the columns of bundled data that d3rlpy takes; a step with both flags counts as terminal."""
    import numpy as np

    with np.load(ROOT / "src" / "rlox" / "data" / "bundled" / f"{data}.npz") as file:
        columns = {name: file[name] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    return columns | {"timeouts": columns["timeouts"].astype(bool) & ~columns["terminals"].astype(bool)}


def theirs(
    algorithm: str, data: str, hidden: int, seed: int
) -> tuple[Callable[[int], None], Callable[[], dict[str, NDArray[np.float32]]]]:
    """Return d3rlpy's side: learn so many steps; the policy's mode as arrays."""
    import d3rlpy  # pyright: ignore[reportMissingImports]
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    from d3rlpy.logging import NoopAdapterFactory  # pyright: ignore[reportMissingImports]

    d3rlpy.seed(seed)
    columns = read(data)
    bound = np.full(columns["actions"].shape[1], BOUNDS[data.partition("-")[0]], np.float32)
    scaler = d3rlpy.preprocessing.MinMaxActionScaler(minimum=-bound, maximum=bound)
    names = {"bc": ("",), "iql": ("actor_", "critic_", "value_")}.get(algorithm, ("actor_", "critic_"))
    layers = d3rlpy.models.VectorEncoderFactory([hidden, hidden])
    networks = {f"{name}encoder_factory": layers for name in names}
    make = getattr(d3rlpy.algos, f"{algorithm.upper()}Config")
    algo = make(batch_size=256, action_scaler=scaler, **networks, **THEIRS[algorithm]).create(device="cpu:0")
    dataset = d3rlpy.dataset.MDPDataset(**columns)

    def step(n: int) -> None:
        algo.fit(dataset, n, n_steps_per_epoch=n, show_progress=False, logger_adapter=NoopAdapterFactory())

    def mode() -> dict[str, NDArray[np.float32]]:
        # Hidden layers and the mean; a head for the std may follow.
        linear = [layer for layer in algo.impl.policy.modules() if isinstance(layer, torch.nn.Linear)][:3]
        parts = {"bound": bound}
        for i, layer in enumerate(linear):
            parts |= {f"w{i}": layer.weight.detach().numpy().T, f"b{i}": layer.bias.detach().numpy()}
        # The `predict` of its CRR draws from several actions by their Q.
        if algorithm != "crr":
            obs = columns["observations"][:100]
            off = float(np.abs(act(parts, obs) - algo.predict(obs)).max())
            if not off < 1e-4:
                raise SystemExit(f"The policy that was taken out differs from d3rlpy's own by up to {off}.")
        return parts

    return step, mode


def act(policy: dict[str, Any], obs: NDArray[Any]) -> NDArray[np.float32]:
    """Return the actions ``(B, action_dim)`` of a policy of ``mode`` at observations ``(B, obs_dim)``."""
    import numpy as np

    x = obs
    for i in range(2):
        x = np.maximum(x @ policy[f"w{i}"] + policy[f"b{i}"], 0)
    return (policy["bound"] * np.tanh(x @ policy["w2"] + policy["b2"])).astype(np.float32)


def show(rows: list[Row]) -> None:
    lines = []
    for algorithm in THEIRS:
        rate, cpu, peak = (
            [select(rows, key, side=side, algorithm=algorithm) for side in ("ours", "theirs")]
            for key in ("steps_per_second", "steps_per_cpu_second", "peak_mib")
        )
        cells = [*(spread(side, 0) for side in rate), ratios(*rate), ratios(*cpu), *(spread(side, 0) for side in peak)]
        lines.append([algorithm, *cells])
    numbers = ["ours, steps / s", "d3rlpy, steps / s", "ours / d3rlpy", "by processor time", "ours, MiB", "d3rlpy, MiB"]
    print_table(["algorithm", *numbers], lines)


if __name__ == "__main__":
    tasks = [{"side": side, "algorithm": algorithm} for algorithm in THEIRS for side in ("ours", "theirs")]
    run(__doc__, worker, lambda: tasks, show, turns=3, where=where)
