"""A policy as an ONNX file: the observation's encoding, the normaliser, the network and the action's scaling in one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlox import __version__
from rlox.core.layers import MLP
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer
from rlox.envs.space_json import describe
from rlox.envs.spaces import ActionCodec, leaves, whole_range
from rlox.errors import ConfigError, SpaceError
from rlox.files import refusing, writing
from rlox.policy.onnx_check import can_check, check, input_dtype, input_name

if TYPE_CHECKING:
    from rlox.policy.policy import Policy

_OPSET, _IR_VERSION = 17, 8


def export_onnx(path: Path, policy: Policy, about: Mapping[str, str | None]) -> Path:
    """Write a policy to ``path``, ending in .onnx, moved into place once it was checked (see ``Policy.export_onnx``).

    Raises:
        ConfigError: another ending, a file that cannot be written, or the extra is missing.
        ExportError: the file and the policy disagree.
        SpaceError: entries of the observation that have the same name.
    """
    if path.suffix != ".onnx":
        raise ConfigError(f"'{path}' must end in .onnx.")
    try:
        import onnx
    except ImportError:
        raise ConfigError("Exporting needs the extra rlox[onnx]: pip install '.[onnx]' in a clone of rlox.") from None
    with writing(path) as side:
        model = _build(policy)
        spaces = {"observation_space": policy.observation_space, "action_space": policy.action_space}
        described = {name: json.dumps(describe(space)) for name, space in spaces.items()}
        known = {name: value for name, value in about.items() if value is not None}
        onnx.helper.set_model_props(model, {**known, **described})
        onnx.checker.check_model(model, full_check=True)
        content = model.SerializeToString()
        if can_check():
            check(content, policy)
        with refusing(path):
            side.write_bytes(content)
    return path


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


def _build(policy: Policy) -> Any:
    """Return the model: ``obs`` or its entries in, ``action`` and the distribution's parameters out."""
    import onnx

    space, codec, actor = policy.observation_space, policy.codec, policy.actor

    def value(name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return onnx.helper.make_tensor_value_info(name, kind, ("batch", *shape))

    inputs = [value(input_name(keys), input_dtype(leaf), leaf.shape or ()) for keys, leaf in leaves(space)]
    names = [entry.name for entry in inputs]
    if len(set(names)) < len(names):
        raise SpaceError(f"Observation space {space} has two entries named {max(names, key=names.count)}: rename one.")
    graph = _Graph()
    x = _normalized(graph, policy.normalizer, _encoded(graph, space))
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
        made,
        producer_name="rlox",
        producer_version=__version__,
        ir_version=_IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
    )


def _encoded(graph: _Graph, space: spaces.Space[Any]) -> str:
    """Add what ``ObsEncoder`` does, but for its checks: a choice that does not exist is encoded as zeros."""
    parts = []
    for keys, leaf in leaves(space):
        flat = graph.shaped(input_name(keys), math.prod(leaf.shape or ()))
        if isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete):
            nvec = np.ravel(leaf.n if isinstance(leaf, spaces.Discrete) else leaf.nvec)
            start = np.ravel(leaf.start)
            component = graph.constant(np.repeat(np.arange(len(nvec)), nvec), np.int64)
            choice = graph.constant(
                np.concatenate([first + np.arange(k) for first, k in zip(start, nvec, strict=True)]), np.int64
            )
            flat = graph.add("Equal", graph.add("Gather", flat, component, axis=1), choice)
        parts.append(_scaled_to_unit(graph, leaf, flat))
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def _scaled_to_unit(graph: _Graph, leaf: spaces.Space[Any], x: str) -> str:
    """Add a cast to float32, after the scaling to [0, 1] of a Box of whole numbers, in double precision as there."""
    low, span = whole_range(leaf)
    if span is not None:
        above = graph.add("Sub", graph.cast(x, np.float64), graph.constant(low, np.float64))
        x = graph.add("Div", above, graph.constant(span, np.float64))
    return graph.cast(x, np.float32)


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
        raw = graph.add("Add", relative, graph.constant(actor.log_std, np.float32))
        if actor.max_std is None:
            above = graph.add("Exp", raw)
        else:
            span = graph.constant(actor.max_std - actor.min_std, np.float32)
            above = graph.add("Mul", graph.add("Sigmoid", raw), span)
        graph.add("Add", above, graph.constant(actor.min_std, np.float32), out="std")
        return
    mean = _network(graph, actor.network, x, out="mean")
    anywhere: Any = actor(jnp.zeros((1, actor.network.weights[0].shape[0])))
    graph.add("Expand", graph.constant(anywhere.std, np.float32), graph.add("Shape", mean), out="std")


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
