"""Learning from data, ours against d3rlpy: gradient steps a second, peak memory, and the return that is reached.

    python benchmarks/offline.py speed                             # by turns on one core
    python benchmarks/offline.py returns --cores 0 1               # a run on each core at a time; hours
    python benchmarks/offline.py returns --tier hopper-medium --steps 5000
    python benchmarks/offline.py --show                            # the tables of all that was run

Both sides take the same columns of the same files, batches of 256, two hidden layers of 256 with ReLU, Adam with steps
of 3e-4, gamma 0.99 and, where there are any, two Q functions with tau 0.005; each member its published settings,
`SETTINGS`. Rewards and observations stay as they are; actions are in units of half their range on both. One thread.
d3rlpy has a virtual environment of its own in the cache folder, made where there is none. It only learns there: each
side writes its policy's mode to a file, having checked it against its own, and one evaluator plays them all.
A run that was stopped goes on where it stood; rows that are in the results are not run again.

What stays different: d3rlpy squashes every mean by tanh, ours are clipped; its AWAC, IQL and CRR bound log std by
[-6, 0], [-5, 2] and [-20, 2] and start near a std of 0.05, 0.2 and 1, CRR with one for each state, where ours starts at
1 over a floor of 0.05, the same in every state. Its BC is the squared error of the mean. The target of its AWAC takes
actions of a squashed Gaussian and has an entropy bonus of weight 1. The advantage of its CRR is of the mean of the Q
functions, its target of a target policy; its `predict` draws from several actions by their Q, left out here.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import (
    CACHE,
    RESULTS,
    ROOT,
    Row,
    bind,
    describe_machine,
    make_venv,
    print_machine,
    print_table,
    ratios,
    run_worker,
    spread,
    start,
    write_results,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Columns = Mapping[str, NDArray[Any]]

D3RLPY = ("torch==2.13.0", "d3rlpy==2.8.1")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PJRT_NPROC": "1"}
BUNDLED = ROOT / "src" / "rlox" / "data" / "bundled"
SIDES = ("ours", "theirs")
WARM_UP = 100
N_EPISODES = 20


class Environment(NamedTuple):
    """An environment, and the bound of its actions on either side."""

    env_id: str
    bound: float


ENVIRONMENTS = {"pendulum": Environment("Pendulum-v1", 2.0), "hopper": Environment("Hopper-v5", 1.0)}
"""By what the files' names begin with."""
TIERS = [f"{name}-{tier}" for name in ENVIRONMENTS for tier in ("random", "medium", "medium-replay", "expert")]
DEFAULTS = {"speed": (["hopper-medium"], 2_000), "returns": (TIERS, 10_000)}
"""Files, and gradient steps."""

_Q = {"gamma": 0.99, "tau": 0.005, "n_critics": 2}
_RATES = {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "bc": {"ours": {"learning_rate": 3e-4}, "theirs": {"learning_rate": 3e-4, "policy_type": "deterministic"}},
    "awac": {
        "ours": {"beta": 1.0, "weights": "softmax", "n_action_samples": 1, **_Q, **_RATES},
        "theirs": {"lam": 1.0, "n_action_samples": 1, **_Q, **_RATES},
    },
    "crr": {
        "ours": {
            "beta": 1.0, "weights": "exp", "baseline": "mean", "max_advantage": 20.0, "n_action_samples": 4,
            **_Q, **_RATES,
        },
        "theirs": {
            "beta": 1.0, "weight_type": "exp", "advantage_type": "mean", "max_weight": 20.0, "n_action_samples": 4,
            "target_update_type": "soft", **_Q, **_RATES,
        },
    },
    "iql": {
        "ours": {"beta": 1 / 3, "expectile": 0.7, "max_advantage": 100.0, **_Q, **_RATES},
        "theirs": {"weight_temp": 3.0, "expectile": 0.7, "max_weight": 100.0, **_Q, **_RATES},
    },
}  # fmt: skip


def worker(action: str, cores: list[int] | None, **task: Any) -> Row:
    """Run in the child process."""
    bind(cores)
    return {"train": train, "evaluate": evaluate}[action](**task)


def train(side: str, member: str, data: str, steps: int, seed: int, warm_up: int, policy: str | None) -> Row:
    """Learn from a file; time it after ``warm_up`` more steps, and write the policy."""
    learner = ours if side == "ours" else theirs
    columns = read(data)
    step, mode, predict = learner(member, environment(data), columns, seed)
    if warm_up:
        step(warm_up)
    begin = time.perf_counter()
    step(steps)
    seconds = time.perf_counter() - begin
    if policy:
        write_policy(policy, mode(), predict, columns["observations"])
    return {
        "side": side, "member": member, "data": Path(data).stem, "steps": steps, "seed": seed, "seconds": seconds,
        "steps_per_second": steps / seconds,
    }  # fmt: skip


def environment(data: str) -> Environment:
    """Return the environment that a file's data are from."""
    return ENVIRONMENTS[Path(data).name.partition("-")[0]]


def read(data: str) -> dict[str, NDArray[Any]]:
    """Return a file's columns, those that d3rlpy takes; of both ends of an episode the terminal state counts."""
    import numpy as np

    with np.load(data) as file:
        columns = {name: file[name] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    return columns | {"timeouts": columns["timeouts"].astype(bool) & ~columns["terminals"].astype(bool)}


Learner = tuple[Callable[[int], Any], Callable[[], dict[str, Any]], Callable[[Any], Any]]
"""Learn so many steps; the policy's mode as plain arrays; its mode by the library itself."""


def ours(member: str, env: Environment, columns: Columns, seed: int) -> Learner:
    import numpy as np

    from rlox import Trainer

    config = {"batch_size": 256, "hidden": 256, **SETTINGS[member]["ours"]}
    trainer = Trainer(member, env=env.env_id, dataset=columns, config=config, seed=seed)

    def step(n: int) -> None:
        trainer.train_offline(n, log_interval=n, progress=False)

    def mode() -> dict[str, Any]:
        network = trainer.state.actor.network
        layers = zip(network.weights, network.biases, strict=True)
        return pack([(np.asarray(weight), np.asarray(bias)) for weight, bias in layers], env.bound, squash=False)

    return step, mode, trainer.predict


def theirs(member: str, env: Environment, columns: Columns, seed: int) -> Learner:
    import d3rlpy  # pyright: ignore[reportMissingImports]
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    from d3rlpy.logging import NoopAdapterFactory  # pyright: ignore[reportMissingImports]

    d3rlpy.seed(seed)
    bound = np.full(columns["actions"].shape[1], env.bound, np.float32)
    scaler = d3rlpy.preprocessing.MinMaxActionScaler(minimum=-bound, maximum=bound)
    make = getattr(d3rlpy.algos, f"{member.upper()}Config")
    algo = make(batch_size=256, action_scaler=scaler, **SETTINGS[member]["theirs"]).create(device="cpu:0")
    dataset = d3rlpy.dataset.MDPDataset(**columns)

    def step(n: int) -> None:
        algo.fit(
            dataset, n_steps=n, n_steps_per_epoch=n, show_progress=False, logger_adapter=NoopAdapterFactory()
        )  # fmt: skip

    def mode() -> dict[str, Any]:
        # Hidden layers and the mean; a head for the std may follow.
        layers = [layer for layer in algo.impl.policy.modules() if isinstance(layer, torch.nn.Linear)][:3]
        arrays = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]
        return pack(arrays, env.bound, squash=True)

    def predict(obs: NDArray[Any]) -> NDArray[Any]:
        if member != "crr":
            return algo.predict(obs)
        with torch.no_grad():
            return scaler.reverse_transform(algo.impl.policy(torch.as_tensor(obs)).squashed_mu).numpy()

    return step, mode, predict


def pack(layers: list[tuple[NDArray[Any], NDArray[Any]]], bound: float, *, squash: bool) -> dict[str, Any]:
    """Return a policy's mode as arrays that a file can hold."""
    parts = {f"{name}_{i}": part for i, layer in enumerate(layers) for name, part in zip("wb", layer, strict=True)}
    return {**parts, "n_layers": len(layers), "bound": bound, "squash": squash}


def act(policy: Mapping[str, Any], obs: NDArray[Any]) -> NDArray[np.float32]:
    """Return the actions ``(B, action_dim)`` of a policy's mode at observations ``(B, obs_dim)``."""
    import numpy as np

    x, last = obs, int(policy["n_layers"]) - 1
    for i in range(last):
        x = np.maximum(x @ policy[f"w_{i}"] + policy[f"b_{i}"], 0)
    x = x @ policy[f"w_{last}"] + policy[f"b_{last}"]
    bounded = np.tanh(x) if policy["squash"] else np.clip(x, -1, 1)
    return (policy["bound"] * bounded).astype(np.float32)


def write_policy(path: str, policy: dict[str, Any], predict: Callable[[Any], Any], obs: NDArray[Any]) -> None:
    """Write a policy that acts as ``predict`` does."""
    import numpy as np

    some = obs[np.linspace(0, len(obs) - 1, 100).astype(int)]
    off = float(np.abs(act(policy, some) - predict(some)).max())
    if not off < 1e-4:
        raise SystemExit(f"The policy that was written differs from the library's own by up to {off}.")
    np.savez(path, **policy)


def evaluate(data: str, policy: str) -> Row:
    """Return the mean return of the twenty episodes, and of those in the data."""
    import gymnasium as gym
    import numpy as np

    with np.load(policy) as file:
        arrays = dict(file)
    env = gym.make(environment(data).env_id)
    total = 0.0
    for episode in range(N_EPISODES):
        obs, _ = env.reset(seed=10_000 + episode)
        ended = False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(act(arrays, obs[None].astype(np.float32))[0])
            total += float(reward)
            ended = terminated or truncated
    columns = read(data)
    n_episodes = int((columns["terminals"] | columns["timeouts"]).sum())
    return {"return": total / N_EPISODES, "data_return": float(columns["rewards"].sum(dtype=float)) / n_episodes}


def measure(kind: str, args: argparse.Namespace) -> None:
    """Run what is not in the results yet, and write each row as it comes."""
    tiers, steps = DEFAULTS[kind]
    steps = args.steps or steps
    files = args.data or [BUNDLED / f"{tier}.npz" for tier in args.tier or tiers]
    for file in files:
        if not file.exists() or file.name.partition("-")[0] not in ENVIRONMENTS:
            raise SystemExit(f"{file}: needs a file that is there, named {' or '.join(ENVIRONMENTS)} and a dash first.")
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ONE_THREAD
    python = make_venv(args.venv, *D3RLPY)
    sides: dict[str, dict[str, Any]] = {
        "ours": {"env": {**os.environ, **ONE_THREAD}},
        "theirs": {"python": python, "env": others},
    }
    cores = args.cores[:1] if kind == "speed" else args.cores
    free: queue.Queue[int] = queue.Queue()
    for core in cores:
        free.put(core)

    def one(task: Row) -> Row:
        core = free.get()
        try:
            with tempfile.TemporaryDirectory() as folder:
                policy = str(Path(folder) / "policy.npz") if kind == "returns" else None
                whole = {**task, "policy": policy, "warm_up": 0 if policy else WARM_UP}
                row = run_worker(__file__, **sides[task["side"]], action="train", **whole, cores=[core])
                if policy:
                    where = {"env": sides["ours"]["env"], "data": task["data"], "policy": policy}
                    row = {**run_worker(__file__, action="evaluate", **where, cores=[core]), **row}
                return row
        finally:
            free.put(core)

    results = args.results / f"offline_{kind}.json"
    rows: list[Row] = json.loads(results.read_text())["rows"] if results.exists() else []
    done = {identity(row) for row in rows}
    tasks = [task for task in wanted(files, steps, args.seeds, args.members) if identity(task) not in done]
    machine, settings = describe_machine(), {"members": SETTINGS, "warm_up": WARM_UP, "cores": cores}
    with ThreadPoolExecutor(len(cores)) as pool:
        try:
            for finished in as_completed([pool.submit(one, task) for task in tasks]):
                rows.append(finished.result())
                write_results(results, machine, settings, rows)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    print_machine(machine)


def wanted(files: list[Path], steps: int, seeds: list[int], members: list[str]) -> Iterator[Row]:
    """Yield the runs, both sides by turns, every file before the next seed."""
    for seed in seeds:
        for file in files:
            for member in members:
                for side in SIDES:
                    yield {"side": side, "member": member, "data": str(file), "steps": steps, "seed": seed}


def identity(row: Row) -> tuple[Any, ...]:
    """Return what makes a run, or its row, this one."""
    return Path(row["data"]).stem, row["steps"], row["member"], row["side"], row["seed"]


def show(results: Path) -> None:
    """Print everything that was run."""
    speed, returns = (
        grouped(json.loads(file.read_text())["rows"]) if (file := results / f"offline_{kind}.json").exists() else {}
        for kind in DEFAULTS
    )
    lines = []
    for (data, _, member), group in speed.items():
        # A run that was stopped may lack a side.
        pairs = [(group["ours", seed], row) for (side, seed), row in group.items() if side == "theirs"]
        rate, peak = ([[row[key] for row in own] for own in zip(*pairs, strict=True)] for key in _SPEED)
        cells = (*(spread(own, 0) for own in rate), ratios(*rate), *(spread(own, 0) for own in peak))
        lines.append([data, member, *cells])
    header = ["data", "member", "ours, steps / s", "theirs, steps / s", "ours / theirs", "ours, MiB", "theirs, MiB"]
    if lines:
        print_table(header, lines)
    means = {key: {side: mean_return(group, side) for side in SIDES} for key, group in returns.items()}
    lines = []
    for (data, steps, member), group in returns.items():
        cells = [each_return(group, side) for side in SIDES]
        lines.append([data, member, f"{steps:,}", *cells, f"{next(iter(group.values()))['data_return']:.0f}"])
    if lines:
        print_table(["data", "member", "steps", "ours (each seed)", "theirs (each seed)", "the data"], lines)
    for data, steps, _ in [key for key in means if key[0].endswith("medium-replay") and key[2] == "bc"]:
        told = [over_bc(means, data, steps, side) for side in SIDES]
        print(f"{data}, {steps:,} steps: {'; '.join(told)}")


_SPEED = ("steps_per_second", "peak_mib")
Key = tuple[str, int, str]
"""Data, steps and member."""
Group = dict[tuple[str, int], Row]
"""Rows by side and seed."""


def grouped(rows: list[Row]) -> dict[Key, Group]:
    """Return the rows of each run of a member, in the order of data, steps and members."""
    found: dict[Key, Group] = {}
    for row in rows:
        found.setdefault((row["data"], row["steps"], row["member"]), {})[row["side"], row["seed"]] = row

    def place(item: tuple[Key, Group]) -> tuple[Any, ...]:
        data, steps, member = item[0]
        return (TIERS.index(data) if data in TIERS else len(TIERS), data, steps, list(SETTINGS).index(member))

    return dict(sorted(found.items(), key=place))


def side_returns(group: Group, side: str) -> list[float]:
    return [row["return"] for (which, _), row in sorted(group.items()) if which == side]


def mean_return(group: Group, side: str) -> float | None:
    found = side_returns(group, side)
    return statistics.mean(found) if found else None


def each_return(group: Group, side: str) -> str:
    """Return the mean and each seed's return."""
    found = side_returns(group, side)
    return f"{statistics.mean(found):.0f} ({', '.join(f'{x:.0f}' for x in found)})" if found else ""


def over_bc(means: Mapping[Key, Mapping[str, float | None]], data: str, steps: int, side: str) -> str:
    """Return the best member of a side, and how far it is over that side's behaviour cloning."""
    own = {key[2]: mean for key, sides in means.items() if key[:2] == (data, steps) and (mean := sides[side])}
    if "bc" not in own:
        return f"{side} lacks bc"
    best = max(own, key=lambda member: own[member])
    return f"{side}, best {best} {own[best]:.0f}, {own[best] - own['bc']:+.0f} over bc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=list(DEFAULTS), help="what to measure; both by default")
    parser.add_argument("--data", type=Path, nargs="+", help="files, named as the tiers are: hopper-mine.npz")
    parser.add_argument("--tier", nargs="+", choices=TIERS, help="bundled ones; speed hopper-medium, returns all")
    parser.add_argument("--members", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="all by default")
    parser.add_argument("--steps", type=int, help="gradient steps (speed 2000, returns 10000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds, of speed the turns (0 1 2)")
    parser.add_argument(
        "--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)),
        help="cores to use, a run on each at a time, speed on the first; all by default",
    )  # fmt: skip
    parser.add_argument("--venv", type=Path, default=CACHE / "d3rlpy", help="virtual environment of the other side")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the raw rows (benchmarks/results)")
    parser.add_argument("--show", action="store_true", help="only print what was run")
    args = parser.parse_args()
    if not args.show:
        for kind in [args.kind] if args.kind else DEFAULTS:
            measure(kind, args)
    show(args.results)


if __name__ == "__main__":
    start(main, worker)
