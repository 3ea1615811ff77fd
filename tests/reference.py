"""What several tests compare with: networks and returns in plain arrays, by their definitions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rlox.core.networks import MLP


def forward(layers: Any, x: Any) -> Any:
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = jnp.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def layers_of(network: MLP) -> Any:
    return list(zip(network.weights, network.biases, strict=True))


def mixed_returns(
    reward: Any, next_value: Any, terminated: Any, ended: Any, gamma: float, td_lambda: float
) -> NDArray[np.float64]:
    """Return the k-step returns of every step, mixed by (1 - lambda) lambda^(k - 1), the last one taking the rest."""
    result = np.zeros(reward.shape)
    for stream in range(reward.shape[1]):
        for start in range(len(reward)):
            total, discounted, weight = 0.0, 0.0, 1.0
            for k, t in enumerate(range(start, len(reward))):
                discounted += gamma**k * reward[t, stream]
                bootstrap = 0.0 if terminated[t, stream] else gamma ** (k + 1) * next_value[t, stream]
                last = ended[t, stream]
                total += (weight if last else weight * (1 - td_lambda)) * (discounted + bootstrap)
                weight *= td_lambda
                if last:
                    break
            result[start, stream] = total
    return result
