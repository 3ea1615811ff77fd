"""A policy as an ONNX file: the observation's encoding, the normaliser, the network and the action's scaling in one."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox import __version__
from rlox.core.networks import MLP, Actor
from rlox.core.normalizer import Normalizer
from rlox.envs.spaces import ActionCodec
from rlox.errors import ConfigError, ExportError, SpaceError, one_line

N_CHECKED = 64
"""Observations on which the file is compared with the trainer."""
TOLERANCE = 1e-5
"""Of the action range, or of the largest logit: how far the two may be from each other."""
_OPSET, _IR_VERSION = 17, 8
_LARGE = 1e6  # bounds beyond it are no scale to draw observations at


def export_onnx(
    path: Path,
    actor: Actor,
    normalizer: Normalizer | None,
    observation_space: spaces.Space[Any],
    codec: ActionCodec,
    predict: Callable[[Any], NDArray[Any]],
    about: Mapping[str, Any],
) -> Path:
    """Write a policy to ``path``, moved into place once it was checked.

    Args:
        path: file to write, ending in .onnx.
        actor: the policy.
        normalizer: what whitens its observations, if anything does.
        observation_space: of the environment.
        codec: of the environment's actions.
        predict: what the file must agree with, where onnxruntime is there to run it.
        about: metadata; what is not a string is written as JSON.

    Raises:
        ConfigError: another ending, no such folder, or the extra is missing.
        ExportError: the file and ``predict`` disagree.
        SpaceError: entries of the observation that have the same name.
    """
    if path.suffix != ".onnx":
        raise ConfigError(f"'{path}' must end in .onnx.")
    if not path.parent.is_dir():
        raise ConfigError(f"'{path}' cannot be written: there is no folder '{path.parent}'.")
    try:
        import onnx
    except ImportError:
        raise ConfigError("Exporting needs the extra rlox[onnx]: pip install 'rlox[onnx]'.") from None
    model = _build(actor, normalizer, observation_space, codec)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    if can_check():
        _check(content, observation_space, codec, predict)
    side = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with side.open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        side.replace(path)
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be written: {one_line(error)}.") from None
    finally:
        side.unlink(missing_ok=True)
    return path


def can_check() -> bool:
    """Return whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def signature(path: Path) -> list[str]:
    """Return a line for each input and output of an ONNX file: its name, type and shape."""
    import onnx

    graph = onnx.load(path).graph
    values = [("input", entry) for entry in graph.input] + [("output", entry) for entry in graph.output]
    width = max(len(entry.name) for _, entry in values)
    lines = []
    for kind, entry in values:
        tensor = entry.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = ", ".join(size.dim_param or str(size.dim_value) for size in tensor.shape.dim)
        lines.append(f"{kind:6}  {entry.name:{width}}  {dtype!s:7}  ({shape})")
    return lines


class _Graph:
    """Nodes and constants of an ONNX graph as they are added, in order."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Any, dtype: Any) -> str:
        """Add a constant; returns its name."""
        import onnx

        name = f"constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.array(array, dtype, order="C"), name))
        return name

    def add(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        import onnx

        out = out or f"{op}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [out], **attributes))
        return out

    def shaped(self, x: str, *shape: int, out: str | None = None) -> str:
        """Add a reshape to ``(batch, *shape)``."""
        return self.add("Reshape", x, self.constant((0, *shape), np.int64), out=out)

    def cast(self, x: str, dtype: Any, out: str | None = None) -> str:
        import onnx

        return self.add("Cast", x, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), out=out)


def _build(actor: Actor, normalizer: Normalizer | None, space: spaces.Space[Any], codec: ActionCodec) -> Any:
    """Return the model: ``obs`` or its entries in, ``action`` and the distribution's parameters out."""
    import onnx

    def value(name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return onnx.helper.make_tensor_value_info(name, kind, ("batch", *shape))

    inputs = [value(_name(keys), _input_dtype(leaf), leaf.shape or ()) for keys, leaf in _leaves(space)]
    names = [entry.name for entry in inputs]
    if len(set(names)) < len(names):
        raise SpaceError(f"Observation space {space} has two entries named {max(names, key=names.count)}: rename one.")
    graph = _Graph()
    x = _normalized(graph, normalizer, _encoded(graph, space))
    if codec.nvec:
        _network(graph, actor.network, x, out="logits")
        action, parameters = _choices(graph, codec), {"logits": sum(codec.nvec)}
    else:
        _gaussian(graph, actor, x)
        action, parameters = _scaled(graph, codec), {"mean": codec.dim, "std": codec.dim}
    shape = codec.space.shape or ()
    graph.cast(action, codec.space.dtype, out="action")
    outputs = [value("action", codec.space.dtype, shape)]
    outputs += [value(name, np.float32, (width,)) for name, width in parameters.items()]
    made = onnx.helper.make_graph(graph.nodes, "policy", inputs, outputs, graph.constants)
    return onnx.helper.make_model(
        made, producer_name="rlox", producer_version=__version__, ir_version=_IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
    )  # fmt: skip


def _leaves(space: spaces.Space[Any], keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the spaces that hold no others, in the order in which they are encoded, with the keys that lead there."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from _leaves(part, (*keys, key))
    else:
        yield keys, space


def _name(keys: tuple[Any, ...]) -> str:
    return ".".join(("obs", *map(str, keys)))


def _input_dtype(leaf: Any) -> np.dtype[Any]:
    if isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete):
        return np.dtype(np.int64)
    return np.dtype(np.float32) if leaf.dtype.kind == "f" else leaf.dtype


def _encoded(graph: _Graph, space: spaces.Space[Any]) -> str:
    """Add what ``ObsEncoder`` does, but for its checks: a choice that does not exist is encoded as zeros."""
    parts = []
    for keys, leaf in _leaves(space):
        flat = graph.shaped(_name(keys), math.prod(leaf.shape or ()))
        if isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete):
            nvec = np.ravel(leaf.n if isinstance(leaf, spaces.Discrete) else leaf.nvec)
            start = np.ravel(leaf.start)
            component = graph.constant(np.repeat(np.arange(len(nvec)), nvec), np.int64)
            choice = graph.constant(
                np.concatenate([first + np.arange(k) for first, k in zip(start, nvec, strict=True)]), np.int64
            )
            flat = graph.add("Equal", graph.add("Gather", flat, component, axis=1), choice)
        parts.append(graph.cast(flat, np.float32))
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def _normalized(graph: _Graph, normalizer: Normalizer | None, x: str) -> str:
    if normalizer is None or not normalizer.count > 0:
        return x
    centred = graph.add("Sub", x, graph.constant(normalizer.mean, np.float32))
    return graph.add("Div", centred, graph.constant(normalizer.std, np.float32))


def _network(graph: _Graph, network: MLP, x: str, out: str) -> str:
    last = len(network.weights) - 1
    for i, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        parameters = (graph.constant(weight, np.float32), graph.constant(bias, np.float32))
        x = graph.add("Gemm", x, *parameters, out=out if i == last else None)
        if i < last:
            if network.norms:
                norm = network.norms[i]
                scale = (graph.constant(norm.weight, np.float32), graph.constant(norm.bias, np.float32))
                x = graph.add("LayerNormalization", x, *scale, axis=-1, epsilon=norm.eps)
            x = graph.add("Relu", x)
    return x


def _gaussian(graph: _Graph, actor: Actor, x: str) -> None:
    """Add ``mean`` and ``std``, in units of half the range."""
    if actor.state_std:
        both = _network(graph, actor.network, x, out="mean_and_relative_log_std")
        width = actor.network.biases[-1].shape[0] // 2
        halves = [graph.constant([at], np.int64) for at in (0, width, 2 * width)]
        axis = graph.constant([1], np.int64)
        graph.add("Slice", both, halves[0], halves[1], axis, out="mean")
        relative = graph.add("Slice", both, halves[1], halves[2], axis)
        above = graph.add("Exp", graph.add("Add", relative, graph.constant(actor.log_std, np.float32)))
        graph.add("Add", above, graph.constant(actor.min_std, np.float32), out="std")
        return
    mean = _network(graph, actor.network, x, out="mean")
    above = 0.0 if actor.log_std is None else np.exp(np.asarray(actor.log_std))
    std = np.broadcast_to(actor.min_std + above, actor.network.biases[-1].shape)
    graph.add("Expand", graph.constant(std, np.float32), graph.add("Shape", mean), out="std")


def _scaled(graph: _Graph, codec: ActionCodec) -> str:
    """Add what ``ActionCodec.decode`` does to ``mean``, in double precision as there."""
    space: Any = codec.space
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    mean = graph.cast(graph.shaped("mean", *low.shape), np.float64)
    x = graph.add("Mul", mean, graph.constant((high - low) / 2, np.float64))
    x = graph.add("Add", x, graph.constant((low + high) / 2, np.float64))
    if space.dtype.kind in "iu":
        x = graph.add("Round", x)
    return graph.add("Max", graph.add("Min", x, graph.constant(high, np.float64)), graph.constant(low, np.float64))


def _choices(graph: _Graph, codec: ActionCodec) -> str:
    """Add each component's most probable choice of ``logits``, counted from the space's start."""
    nvec, widest = np.asarray(codec.nvec), max(codec.nvec)
    if (nvec == widest).all():
        logits = graph.shaped("logits", len(nvec), widest)
    else:
        exists = np.arange(widest) < nvec[:, None]
        place = np.where(exists, (np.cumsum(nvec) - nvec)[:, None] + np.arange(widest), 0)
        padded = graph.add("Gather", "logits", graph.constant(place, np.int64), axis=1)
        logits = graph.add("Where", graph.constant(exists, bool), padded, graph.constant(-np.inf, np.float32))
    best = graph.add("ArgMax", logits, axis=2, keepdims=0)
    start = graph.constant(getattr(codec.space, "start", 0), np.int64)
    return graph.add("Add", graph.shaped(best, *(codec.space.shape or ())), start)


def _check(
    content: bytes, space: spaces.Space[Any], codec: ActionCodec, predict: Callable[[Any], NDArray[Any]]
) -> None:
    """Compare a model with ``predict`` on ``N_CHECKED`` observations.

    Raises:
        ExportError: an action differs by more than rounding explains.
    """
    import onnxruntime

    obs = _draw(space, np.random.default_rng(0))
    feed = {_name(keys): functools.reduce(operator.getitem, keys, obs) for keys, _ in _leaves(space)}
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    action, parameter, *_ = (np.asarray(output) for output in session.run(None, feed))
    # Accelerators multiply in a lower precision unless they are told not to.
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(predict(obs))
    # Rounding errors grow with what is summed up.
    slack = TOLERANCE * max(1.0, float(np.abs(parameter).max()))
    if action.shape != expected.shape or action.dtype != expected.dtype:
        agree = False
    elif codec.nvec:
        agree = all(_is_best(parameter, codec.nvec, codec.encode(taken), slack) for taken in (action, expected))
    else:
        low, high = (codec.decode(parameter + side * 2 * slack) for side in (-1, 1))
        agree = all(((low <= taken) & (taken <= high)).all() for taken in (action, expected))
    if not agree:
        raise ExportError(
            f"The ONNX file does not do what the policy does: of {N_CHECKED} observations, an action differs by more "
            f"than {TOLERANCE} of its range. Nothing was written; please report it."
        )


def _is_best(logits: NDArray[Any], nvec: tuple[int, ...], choices: NDArray[Any], slack: float) -> bool:
    """Return whether each component's choice exists, and none has a logit above its by more than ``slack``."""
    if ((choices < 0) | (choices >= nvec)).any():
        return False
    parts = np.split(logits, list(itertools.accumulate(nvec))[:-1], axis=1)
    chosen = [np.take_along_axis(part, choices[:, i : i + 1], axis=1)[:, 0] for i, part in enumerate(parts)]
    return all((taken >= part.max(axis=1) - slack).all() for taken, part in zip(chosen, parts, strict=True))


def _draw(space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    """Return a batch of ``N_CHECKED`` observations: uniform between two bounds, else normal, or on one's side."""
    match space:
        case spaces.Dict():
            return {key: _draw(part, rng) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(_draw(part, rng) for part in space.spaces)
        case spaces.Discrete():
            return space.start + rng.integers(space.n, size=N_CHECKED)
        case spaces.MultiDiscrete():
            return space.start + rng.integers(space.nvec, size=(N_CHECKED, *space.shape))
        case spaces.Box():
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            above, below = np.abs(low) <= _LARGE, np.abs(high) <= _LARGE
            shape = (N_CHECKED, *space.shape)
            drawn = rng.standard_normal(shape)
            drawn = np.where(above, low + np.abs(drawn), np.where(below, high - np.abs(drawn), drawn))
            both = above & below
            low, high = (np.where(both, bound, 0) for bound in (low, high))
            drawn = np.where(both, rng.uniform(low, high, shape), drawn)
            drawn = np.clip(np.rint(drawn) if space.dtype.kind in "iub" else drawn, space.low, space.high)
            return drawn.astype(_input_dtype(space))
    return rng.integers(2, size=(N_CHECKED, *(space.shape or ())), dtype=np.int8)
