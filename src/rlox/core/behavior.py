"""A policy in NumPy alone: what acts while JAX is busy, and where there is none. This module never imports it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORM_EPS = 1e-5
"""Added to the variance in a layer normalisation."""


@dataclasses.dataclass(frozen=True)
class Behavior:
    """pi(.|s) as arrays, in float32: a perceptron with ReLU, whose output parametrises a distribution over actions.

    ``core.acting.behavior_of`` makes one of an actor.
    """

    weights: tuple[NDArray[np.float32], ...]
    """``(n_in, n_out)`` of each layer; the first takes observations as they are stored."""
    biases: tuple[NDArray[np.float32], ...]
    norms: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    """Scale and offset of the layer normalisation before each activation; empty for none."""
    whitening: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    """Mean and standard deviation that observations are whitened by; None for none."""
    nvec: tuple[int, ...]
    """Discrete actions: the number of choices of each component; empty for continuous ones."""
    log_std: NDArray[np.float32] | None
    """As ``Actor`` has them."""
    min_std: float
    max_std: float | None
    state_std: bool

    def outputs(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the network puts out at stored observations ``(n, obs_dim)``."""
        x = obs.astype(np.float32)
        if obs.dtype == np.uint8:
            x /= np.float32(255)
        if self.whitening is not None:
            mean, std = self.whitening
            x = (x - mean) / std
        x = x @ self.weights[0] + self.biases[0]
        for i, (weight, bias) in enumerate(zip(self.weights[1:], self.biases[1:], strict=True)):
            if self.norms:
                x = x - x.mean(axis=1, keepdims=True)
                scale, offset = self.norms[i]
                x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + np.float32(NORM_EPS)) * scale + offset
            x = np.maximum(x, 0) @ weight + bias
        return x

    def gaussian(self, outputs: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return means and standard deviations ``(n, action_dim)`` of continuous actions."""
        if self.log_std is None:
            return outputs, np.full_like(outputs, self.min_std)
        mean, relative = np.split(outputs, 2, axis=1) if self.state_std else (outputs, np.zeros_like(outputs))
        raw = self.log_std + relative
        if self.max_std is None:
            return mean, self.min_std + np.exp(raw)
        with np.errstate(over="ignore"):
            return mean, self.min_std + (self.max_std - self.min_std) / (1 + np.exp(-raw))

    def sample(self, obs: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return random actions ``(n, action_dim)`` at stored observations ``(n, obs_dim)``."""
        out = self.outputs(obs)
        if not self.nvec:
            mean, std = self.gaussian(out)
            return mean + std * rng.standard_normal(mean.shape, np.float32)
        # The largest of logits with Gumbel noise is a choice by their probabilities.
        noisy = out + rng.gumbel(size=out.shape)
        parts = np.split(noisy, np.cumsum(self.nvec)[:-1], axis=1)
        return np.stack([part.argmax(axis=1) for part in parts], axis=1).astype(np.int32)
