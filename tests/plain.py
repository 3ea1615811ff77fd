"""Perceptrons, their gradients, optimisers, policies and critics once more, in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[Any]
Net = list[Vector]
"""Weight, bias, weight, bias, ..."""


def params_of(network: Any) -> Net:
    """Return the parameters of one of rlox's perceptrons."""
    pairs = zip(network.weights, network.biases, strict=True)
    return [np.asarray(leaf, np.float64) for pair in pairs for leaf in pair]


def forward(net: Net, x: Vector) -> tuple[Vector, list[Vector]]:
    """Return the outputs ``(B, n_out)`` of a perceptron with ReLU, and the inputs of its layers."""
    inputs = []
    for i in range(0, len(net), 2):
        inputs.append(x)
        x = x @ net[i] + net[i + 1]
        if i < len(net) - 2:
            x = np.maximum(x, 0)
    return x, inputs


def backward(net: Net, inputs: list[Vector], grad: Vector) -> Net:
    """Return the gradient of each weight and bias from that of the outputs."""
    grads: Net = []
    for i in range(len(net) - 2, -1, -2):
        x = inputs[i // 2]
        grads = [x.T @ grad, grad.sum(axis=0), *grads]
        grad = (grad @ net[i].T) * (x > 0)
    return grads


class Optimizer:
    """Adam, or gradient descent with momentum, of a flat list of parameters."""

    def __init__(self, config: Any, rate: float | None, decay_steps: int | None = None):
        self.config, self.rate, self.decay_steps = config, rate or config.learning_rate, decay_steps
        self.count, self.first, self.second = 0, 0.0, 0.0

    def step(self, params: list[Vector], grads: list[Vector]) -> list[Vector]:
        """Return the parameters after a step."""
        flat, rate = np.concatenate([grad.ravel() for grad in grads]), self.rate
        if self.config.max_grad_norm is not None:
            flat = flat * min(1.0, self.config.max_grad_norm / np.sqrt((flat**2).sum()))
        if self.decay_steps is not None:
            rate *= (1 + np.cos(np.pi * min(self.count / self.decay_steps, 1.0))) / 2
        self.count += 1
        if self.config.optimizer == "sgd":
            move = self.first = self.config.momentum * self.first + flat
        else:
            decay = self.config.momentum
            self.first = decay * self.first + (1 - decay) * flat
            self.second = 0.999 * self.second + 0.001 * flat**2
            move = self.first / (1 - decay**self.count) / (np.sqrt(self.second / (1 - 0.999**self.count)) + 1e-8)
        sizes = np.cumsum([param.size for param in params])[:-1]
        moves = np.split(rate * move, sizes)
        return [param - part.reshape(param.shape) for param, part in zip(params, moves, strict=True)]


# The policy. Of a continuous one with a learned std, the last parameter is the logarithm of the std above its floor.


def gaussian(config: Any, actor: Net, obs: Vector) -> tuple[Vector, Vector, list[Vector]]:
    """Return means, stds ``(B, K)`` and the inputs of the layers."""
    out, inputs = forward(actor[: len(actor) // 2 * 2], obs)
    if not config.learn_std:
        return out, np.full(out.shape, config.initial_std), inputs
    mean, relative = np.split(out, 2, axis=1) if config.state_dependent_std else (out, np.zeros(out.shape))
    raw = actor[-1] + relative
    if config.max_std is None:
        return mean, config.min_std + np.exp(raw), inputs
    return mean, config.min_std + (config.max_std - config.min_std) / (1 + np.exp(-raw)), inputs


def log_softmax(logits: Vector) -> Vector:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def discrete_actor(config: Any, nvec: tuple[int, ...], actor: Net, batch: Any, weight: Vector, near: Any = None) -> Any:
    """Return each sample's loss, the gradient of the mean loss, and each sample's entropy.

    ``near``: logits of a policy to stay near to, and the price of the KL divergence from it.
    """
    logits, inputs = forward(actor, batch.obs)
    loss, entropy, grads = np.zeros(len(logits)), np.zeros(len(logits)), []
    for k, (part, choice) in enumerate(
        zip(np.split(logits, np.cumsum(nvec)[:-1], axis=1), batch.action.T, strict=True)
    ):
        log_p = log_softmax(part)
        p, chosen = np.exp(log_p), np.eye(part.shape[1])[choice.astype(int)]
        h = -(p * log_p).sum(axis=1)
        loss += -weight * (chosen * log_p).sum(axis=1) - config.entropy_coef * h
        loss += config.logit_coef * (part**2).sum(axis=1) / 2
        entropy += h
        grads.append(
            weight[:, None] * (p - chosen) + config.entropy_coef * p * (log_p + h[:, None]) + config.logit_coef * part
        )
        if near is not None:
            log_q = log_softmax(np.split(near[0], np.cumsum(nvec)[:-1], axis=1)[k])
            loss += near[1][0] * (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
            grads[-1] += near[1][0] * (p - np.exp(log_q))
    return loss, backward(actor, inputs, np.concatenate(grads, axis=1) / len(logits)), entropy, None


def continuous_actor(config: Any, actor: Net, batch: Any, weight: Vector, near: Any = None) -> Any:
    """Return each sample's loss, the gradient of the mean loss, each sample's entropy, and the stds.

    ``near``: mean and std of a policy to stay near to, and the prices of a divergence in each.
    """
    mean, std, inputs = gaussian(config, actor, batch.obs)
    z, excess = (batch.action - mean) / std, np.maximum(np.abs(mean) - 1, 0)
    log_prob = (-(z**2) / 2 - np.log(std) - np.log(2 * np.pi) / 2).sum(axis=1)
    entropy = (np.log(std) + np.log(2 * np.pi * np.e) / 2).sum(axis=1)
    loss = -weight * log_prob - config.entropy_coef * entropy + config.bound_coef * (excess**2).sum(axis=1) / 2
    w, n = weight[:, None], len(mean)
    out_grad = (-w * z / std + config.bound_coef * excess * np.sign(mean)) / n
    std_grad = (-w * (z**2 - 1) / std - config.entropy_coef / std) / n
    if near is not None:
        old, old_std, prices = near
        loss += prices[0] * ((mean - old) ** 2 / (2 * old_std**2)).sum(axis=1)
        loss += prices[1] * (np.log(std / old_std) + old_std**2 / (2 * std**2) - 1 / 2).sum(axis=1)
        out_grad += prices[0] * (mean - old) / old_std**2 / n
        std_grad += prices[1] * (1 / std - old_std**2 / std**3) / n
    layers = actor[: len(actor) // 2 * 2]
    if not config.learn_std:
        return loss, backward(layers, inputs, out_grad), entropy, std
    above = std - config.min_std
    share = 1.0 if config.max_std is None else (config.max_std - std) / (config.max_std - config.min_std)
    log_std_grad = std_grad * above * share
    if config.state_dependent_std:
        out_grad = np.concatenate([out_grad, log_std_grad], axis=1)
    return loss, [*backward(layers, inputs, out_grad), log_std_grad.sum(axis=0)], entropy, std


# Critics, of one network each.


def value(config: Any, net: Net, obs: Vector) -> Vector:
    """Return ``V(s)``."""
    return config.value_scale * forward(net, obs)[0][:, 0]


def value_loss(config: Any, net: Net, obs: Vector, target: Vector, expectile: float) -> tuple[float, Net]:
    """Return the expectile loss of V and its gradient."""
    out, inputs = forward(net, obs)
    error = target / config.value_scale - out[:, 0]
    share = np.where(error < 0, 2 * (1 - expectile), 2 * expectile)
    grad = -2 * share * error / len(error)
    return float((share * error**2).mean()), backward(net, inputs, grad[:, None])


def q_inputs(nvec: tuple[int, ...], obs: Vector, action: Vector) -> tuple[Vector, Vector]:
    """Return what Q's network sees, and which of its outputs counts."""
    if not nvec:
        return np.concatenate([obs, np.clip(action, -1, 1)], axis=1), np.zeros(len(obs), int)
    place = np.zeros(len(obs), int)
    for choice, n in zip(action.T, nvec, strict=True):
        place = n * place + choice.astype(int)
    return obs, place


def q_value(config: Any, nvec: tuple[int, ...], net: Net, obs: Vector, action: Vector) -> Vector:
    """Return ``Q(s, a)``."""
    seen, place = q_inputs(nvec, obs, action)
    return config.value_scale * forward(net, seen)[0][np.arange(len(obs)), place]


def q_loss(
    config: Any, nvec: tuple[int, ...], net: Net, obs: Vector, action: Vector, target: Vector
) -> tuple[float, Net]:
    """Return the squared error of one Q and its gradient."""
    seen, place = q_inputs(nvec, obs, action)
    out, inputs = forward(net, seen)
    rows = np.arange(len(obs))
    error, grad = target / config.value_scale - out[rows, place], np.zeros(out.shape)
    grad[rows, place] = -2 * error / len(error)
    return float((error**2).mean()), backward(net, inputs, grad)


# Batch-normalised critics: the weights and biases of a perceptron, then of each layer's inputs a scale, an offset, a
# running mean and a running variance.


def folded(net: Net) -> Net:
    """Return the plain perceptron that it is by its running moments."""
    n = len(net) // 6
    plain: Net = []
    for i in range(n):
        scale, offset, mean, variance = net[2 * n + 4 * i : 2 * n + 4 * i + 4]
        k = scale / np.sqrt(variance + 1e-3)
        plain += [k[:, None] * net[2 * i], net[2 * i + 1] + (offset - mean * k) @ net[2 * i]]
    return plain


def normalized_forward(net: Net, x: Vector) -> tuple[Vector, list[Any]]:
    """Return the outputs by the moments of this batch, and for each layer what its backward pass and moments need."""
    n, layers = len(net) // 6, []
    for i in range(n):
        scale, offset = net[2 * n + 4 * i : 2 * n + 4 * i + 2]
        x = np.maximum(x, 0) if i else x
        std = np.sqrt(x.var(axis=0) + 1e-3)
        unit = (x - x.mean(axis=0)) / std
        layers.append((x, unit, std, scale * unit + offset))
        x = layers[-1][-1] @ net[2 * i] + net[2 * i + 1]
    return x, layers


def normalized_backward(net: Net, layers: list[Any], grad: Vector) -> Net:
    """Return the gradient of each parameter from that of the outputs; 0 for running moments."""
    n, affine, norms = len(net) // 6, [], []
    for i in range(n - 1, -1, -1):
        x, unit, std, seen = layers[i]
        affine = [seen.T @ grad, grad.sum(axis=0), *affine]
        grad = grad @ net[2 * i].T
        norms = [(grad * unit).sum(axis=0), grad.sum(axis=0), *(np.zeros(len(std)) for _ in range(2)), *norms]
        grad = net[2 * n + 4 * i] / std * (grad - grad.mean(axis=0) - unit * (grad * unit).mean(axis=0)) * (x > 0)
    return [*affine, *norms]


def moved_moments(net: Net, layers: list[Any]) -> Net:
    """Return the net with its running moments a hundredth nearer to those of this batch."""
    n, net = len(net) // 6, list(net)
    for i, (x, *_) in enumerate(layers):
        for place, seen in ((2 * n + 4 * i + 2, x.mean(axis=0)), (2 * n + 4 * i + 3, x.var(axis=0))):
            net[place] = 0.99 * net[place] + 0.01 * seen
    return net
