"""The state of a model as named arrays, and back; no pickle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer

from rlox.errors import CheckpointError
from rlox.sb3.model import Model

Arrays = Mapping[str, NDArray[Any]]
POLICY = "train.policy."
"""How the names of the networks' parameters begin."""
_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_ROLLOUT = ("observations", "actions", "values", "log_probs", "advantages", "returns")


def take(arrays: Arrays, name: str, like: NDArray[Any], *, free: bool = False) -> NDArray[Any]:
    """Return an array of a checkpoint; ``free`` lets its first axis have any length.

    Raises:
        CheckpointError: it is missing, or has another shape or type.
    """
    if name not in arrays:
        raise CheckpointError(f"The checkpoint lacks '{name}': it was made with another configuration or version.")
    array = arrays[name]
    fits = array.shape[1:] == like.shape[1:] and array.ndim == like.ndim if free else array.shape == like.shape
    if not fits or array.dtype != like.dtype:
        raise CheckpointError(
            f"'{name}' is {array.dtype}{list(array.shape)} in the checkpoint, but {like.dtype}{list(like.shape)} here: "
            "it was made with other spaces or settings."
        )
    return array


def optimizers(model: Model) -> dict[str, torch.optim.Optimizer]:
    """Return a model's optimisers by what they optimise; the actor's is the first."""
    if isinstance(model, PPO):
        return {"policy": model.policy.optimizer}
    found = {"actor": model.actor.optimizer, "critic": model.critic.optimizer}
    if isinstance(model, SAC) and model.ent_coef_optimizer is not None:
        found["entropy_coef"] = model.ent_coef_optimizer
    return found


def steps_of(optimizer: torch.optim.Optimizer) -> int:
    """Return the steps that an optimiser has taken."""
    moments = next(iter(optimizer.state.values()), None)
    return 0 if moments is None else int(moments["step"])


def _networks(model: Model) -> dict[str, torch.Tensor]:
    return {f"{POLICY}{name}": tensor for name, tensor in model.policy.state_dict().items()}


def parameters(model: Model) -> dict[str, torch.Tensor]:
    """Return all that gradients change, and the target networks; not copies."""
    found = _networks(model)
    if isinstance(model, SAC) and model.log_ent_coef is not None:
        found["train.log_entropy_coef"] = model.log_ent_coef.detach()
    return found


def unpack_policy(model: Model, arrays: Arrays) -> None:
    """Give a model the networks of a checkpoint alone.

    Raises:
        CheckpointError: they are those of another configuration.
    """
    _fill(_networks(model), arrays)


def _fill(tensors: Mapping[str, torch.Tensor], arrays: Arrays) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(np.array(take(arrays, name, tensor.numpy()))))


def pack_training(model: Model) -> dict[str, NDArray[Any]]:
    """Return copies of parameters and optimisers."""
    found = parameters(model)
    for what, optimizer in optimizers(model).items():
        for i, moments in optimizer.state_dict()["state"].items():
            found |= {f"train.optimizer.{what}.{i}.{name}": x for name, x in moments.items()}
    return {name: np.array(tensor.numpy()) for name, tensor in found.items()}


def unpack_training(model: Model, arrays: Arrays) -> None:
    """Give a model the parameters and optimisers that ``pack_training`` took.

    Raises:
        CheckpointError: they are those of another configuration.
    """
    _fill(parameters(model), arrays)
    for what, optimizer in optimizers(model).items():
        begin = f"train.optimizer.{what}."
        if not any(name.startswith(begin) for name in arrays):
            continue
        groups, state = optimizer.state_dict()["param_groups"], {}
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        for i, tensor in enumerate(tensors):
            like = {"step": np.zeros((), np.float32), **dict.fromkeys(("exp_avg", "exp_avg_sq"), tensor.detach())}
            state[i] = {
                name: torch.from_numpy(np.array(take(arrays, f"{begin}{i}.{name}", np.asarray(x))))
                for name, x in like.items()
            }
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def replay_of(model: SAC | TD3) -> ReplayBuffer:
    """Return the replay of a model that has one."""
    assert model.replay_buffer is not None
    return model.replay_buffer


def columns(buffer: ReplayBuffer | RolloutBuffer) -> dict[str, NDArray[Any]]:
    """Return a buffer's columns ``(rows, n, ...)``, those of a Dict space by their keys; not copies."""
    names = _REPLAY if isinstance(buffer, ReplayBuffer) else _ROLLOUT
    found: dict[str, NDArray[Any]] = {}
    for name in names:
        column: Any = getattr(buffer, name)
        found |= {f"{name}.{key}": x for key, x in column.items()} if isinstance(column, dict) else {name: column}
    return found


def pack_replay(replay: ReplayBuffer) -> dict[str, NDArray[Any]]:
    """Return copies of the rows in use, and where the next one goes."""
    named = {f"replay.{name}": column[: replay.size()].copy() for name, column in columns(replay).items()}
    return {**named, "replay_position": np.array(replay.pos), "replay_full": np.array(replay.full)}


def unpack_replay(replay: ReplayBuffer, arrays: Arrays) -> None:
    """Fill a replay with what ``pack_replay`` took.

    Raises:
        CheckpointError: it is that of another configuration, or counts more than it holds.
    """
    position = int(take(arrays, "replay_position", np.array(0)))
    full = bool(take(arrays, "replay_full", np.array(False)))
    rows = replay.buffer_size if full else position
    if not 0 <= position <= rows <= replay.buffer_size:
        raise CheckpointError("The checkpoint counts more steps than it holds: it is damaged, or was made up.")
    for name, column in columns(replay).items():
        column[:rows] = take(arrays, f"replay.{name}", column[:rows])
    replay.pos, replay.full = position % replay.buffer_size, full


class Randomness:
    """The global random states of NumPy and PyTorch, which a model draws from; its own while it does."""

    def __init__(self) -> None:
        self._own: dict[str, NDArray[Any]] | None = None

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """Put the model's states in place of the caller's, and back."""
        before = _read()
        if self._own is not None:
            _write(self._own)
        try:
            yield
        finally:
            self._own = _read()
            _write(before)

    def pack(self) -> dict[str, NDArray[Any]]:
        """Return copies of the model's states."""
        return {f"random.{name}": x.copy() for name, x in (self._own or {}).items()}

    def unpack(self, arrays: Arrays) -> None:
        """Take over what ``pack`` returned.

        Raises:
            CheckpointError: it did not return these.
        """
        self._own = {name: take(arrays, f"random.{name}", x) for name, x in _read().items()}


def _read() -> dict[str, NDArray[Any]]:
    found: Any = np.random.get_state(legacy=False)
    state = found["state"]
    return {
        "torch": torch.get_rng_state().numpy().copy(),
        "numpy": state["key"].copy(),
        "numpy_place": np.array([state["pos"], found["has_gauss"]], np.int64),
        "numpy_next": np.array(found["gauss"], np.float64),
    }


def _write(named: Mapping[str, NDArray[Any]]) -> None:
    torch.set_rng_state(torch.from_numpy(named["torch"].copy()))
    position, has_next = (int(x) for x in named["numpy_place"])
    state = {"key": named["numpy"], "pos": position}
    np.random.set_state(
        {"bit_generator": "MT19937", "state": state, "has_gauss": has_next, "gauss": float(named["numpy_next"])}
    )
