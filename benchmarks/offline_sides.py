"""Both sides of `offline.py`: their settings, how they learn, the policy that they write, and its evaluation.

What remains different: d3rlpy squashes every mean by tanh, ours are clipped; its AWAC, IQL and CRR bound log std by
[-6, 0], [-5, 2] and [-20, 2] and start near a std of 0.05, 0.2 and 1, CRR with one for each state, where ours starts at
1 over a floor of 0.05, the same in every state. Its BC is the squared error of the mean. The target of its AWAC takes
actions of a Gaussian squashed after its noise, and has an entropy bonus of weight 1. The advantage of its CRR is of the
mean of the Q functions, its target of a target policy; its `predict` draws from several actions by their Q, which is
not used here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import Row, greedy_return

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Columns = Mapping[str, NDArray[Any]]


class Environment(NamedTuple):
    """An environment, and the bound of its actions on either side."""

    env_id: str
    bound: float


ENVIRONMENTS = {"pendulum": Environment("Pendulum-v1", 2.0), "hopper": Environment("Hopper-v5", 1.0)}
"""By the first part of the files' names."""

_Q = {"gamma": 0.99, "tau": 0.005, "n_critics": 2}
_RATES = {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4}
_CRR = {"beta": 1.0, "n_action_samples": 4, **_Q, **_RATES}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "bc": {"ours": {"learning_rate": 3e-4}, "theirs": {"learning_rate": 3e-4, "policy_type": "deterministic"}},
    "awac": {
        "ours": {"beta": 1.0, "weights": "softmax", "n_action_samples": 1, **_Q, **_RATES},
        "theirs": {"lam": 1.0, "n_action_samples": 1, **_Q, **_RATES},
    },
    "crr": {
        "ours": {"weights": "exp", "baseline": "mean", "max_advantage": 20.0, **_CRR},
        "theirs": {
            "weight_type": "exp",
            "advantage_type": "mean",
            "max_weight": 20.0,
            "target_update_type": "soft",
            **_CRR,
        },
    },
    "iql": {
        "ours": {"beta": 1 / 3, "expectile": 0.7, "max_advantage": 100.0, **_Q, **_RATES},
        "theirs": {"weight_temp": 3.0, "expectile": 0.7, "max_weight": 100.0, **_Q, **_RATES},
    },
}


def train(
    side: str, algorithm: str, data: str, steps: int, hidden: int, seed: int, warm_up: int, policy: str | None
) -> Row:
    """Learn from a file, timed after ``warm_up`` steps; write the policy."""
    learner = ours if side == "ours" else theirs
    columns = read(data)
    step, mode, predict = learner(algorithm, environment(data), columns, hidden, seed)
    if warm_up:
        step(warm_up)
    begin, cpu = time.perf_counter(), time.process_time()
    step(steps)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    if policy:
        write_policy(policy, mode(), predict, columns["observations"])
    row = {"side": side, "algorithm": algorithm, "data": Path(data).stem, "steps": steps, "hidden": hidden}
    rates = {"steps_per_second": steps / seconds, "steps_per_cpu_second": steps / cpu_seconds}
    return {**row, "seed": seed, "seconds": seconds, **rates}


def environment(data: str) -> Environment:
    """Return the environment that a file's data are from."""
    return ENVIRONMENTS[Path(data).name.partition("-")[0]]


def read(data: str) -> dict[str, NDArray[Any]]:
    """Return the columns of a file that d3rlpy takes; a step with both flags counts as terminal."""
    import numpy as np

    with np.load(data) as file:
        columns = {name: file[name] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    return columns | {"timeouts": columns["timeouts"].astype(bool) & ~columns["terminals"].astype(bool)}


Learner = tuple[Callable[[int], Any], Callable[[], dict[str, Any]], Callable[[Any], Any]]
"""Learn so many steps; the policy's mode as plain arrays; its mode by the library itself."""


def ours(algorithm: str, env: Environment, columns: Columns, hidden: int, seed: int) -> Learner:
    import numpy as np

    from rlox import Trainer

    config = {"batch_size": 256, "hidden": hidden, **SETTINGS[algorithm]["ours"]}
    trainer = Trainer(algorithm, env=env.env_id, dataset=columns, config=config, seed=seed)

    def step(n: int) -> None:
        trainer.train_offline(n, log_interval=n, progress=False)

    def mode() -> dict[str, Any]:
        policy: Any = trainer.policy
        network = policy.actor.network
        layers = zip(network.weights, network.biases, strict=True)
        return pack([(np.asarray(weight), np.asarray(bias)) for weight, bias in layers], env.bound, squash=False)

    return step, mode, trainer.predict


def theirs(algorithm: str, env: Environment, columns: Columns, hidden: int, seed: int) -> Learner:
    import d3rlpy  # pyright: ignore[reportMissingImports]
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    from d3rlpy.logging import NoopAdapterFactory  # pyright: ignore[reportMissingImports]

    d3rlpy.seed(seed)
    bound = np.full(columns["actions"].shape[1], env.bound, np.float32)
    scaler = d3rlpy.preprocessing.MinMaxActionScaler(minimum=-bound, maximum=bound)
    make = getattr(d3rlpy.algos, f"{algorithm.upper()}Config")
    names = {"bc": ("",), "iql": ("actor_", "critic_", "value_")}.get(algorithm, ("actor_", "critic_"))
    layers = d3rlpy.models.VectorEncoderFactory([hidden, hidden])
    networks = {f"{name}encoder_factory": layers for name in names}
    settings = {"batch_size": 256, "action_scaler": scaler, **networks, **SETTINGS[algorithm]["theirs"]}
    algo = make(**settings).create(device="cpu:0")
    dataset = d3rlpy.dataset.MDPDataset(**columns)

    def step(n: int) -> None:
        algo.fit(dataset, n, n_steps_per_epoch=n, show_progress=False, logger_adapter=NoopAdapterFactory())

    def mode() -> dict[str, Any]:
        # Hidden layers and the mean; a head for the std may follow.
        layers = [layer for layer in algo.impl.policy.modules() if isinstance(layer, torch.nn.Linear)][:3]
        arrays = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]
        return pack(arrays, env.bound, squash=True)

    def predict(obs: NDArray[Any]) -> NDArray[Any]:
        if algorithm != "crr":
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
    import numpy as np

    with np.load(policy) as file:
        arrays = dict(file)
    found = greedy_return(environment(data).env_id, lambda obs: act(arrays, obs[None].astype(np.float32))[0])
    columns = read(data)
    n_episodes = int((columns["terminals"] | columns["timeouts"]).sum())
    return {"return": found, "data_return": float(columns["rewards"].sum(dtype=float)) / n_episodes}
