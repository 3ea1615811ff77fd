"""PPO, SAC and TD3 of Stable-Baselines3: their settings, under our names where they mean the same.

Their learner is ``rlox.sb3``, which is imported when one is made. Defaults are Stable-Baselines3's own.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple

from rlox.core.config import Settings, setting
from rlox.errors import ConfigError

_steps = functools.partial(setting, group="Gradient steps")
_networks = functools.partial(setting, group="Networks", fixed=True)
_policy = functools.partial(setting, group="Policy")
_env = functools.partial(setting, group="Environment")


class Other(NamedTuple):
    """An algorithm of another library."""

    config: type[Settings]


def only_ours(what: str, algorithm: str, why: str) -> ConfigError:
    """Return the error that ``what`` is not there for an algorithm of another library."""
    return ConfigError(
        f"{what} is not there for {algorithm}, which runs on Stable-Baselines3: {why}. awr, bc, marwil, awac, crr, "
        "iql and mpo have it."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherConfig(Settings):
    """Settings that the three have."""

    learning_rate: float = _steps(3e-4, above=0)
    """Step size of actor and critic."""
    learning_rate_schedule: Literal["constant", "linear"] = _steps("constant")
    """Keep the step size, or let it fall linearly to 0 at the end of the budget."""
    batch_size: int = _steps(256, at_least=1)
    """Transitions in a minibatch."""
    gamma: float = _steps(0.99, at_least=0, at_most=1)
    """Discount factor."""
    hidden: int | tuple[int, ...] = _networks((256, 256), at_least=1)
    """Width of each hidden layer of actor and critic, such as `(128, 64)`, or of both of two."""
    n_envs: int = _env(1, at_least=1, fixed=True)
    """Environments stepped together, when `env` is an id or a callable."""
    vectorization_mode: Literal["sync", "async", "envpool"] = _env("sync")
    """How several are stepped: one after another, in processes of their own, or by EnvPool (an extra; ids only)."""
    env_timeout: float | None = _env(None, above=0, needs={"vectorization_mode": "async"})
    """Seconds that a step or a reset may take before training stops; None waits as long as it takes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig(OtherConfig):
    """Settings of PPO, as Stable-Baselines3 runs it (the extra rlox[compare])."""

    rollout_steps: int = setting(2048, at_least=1)
    """Environment steps of a rollout, over all environments, rounded up to a multiple of their number."""
    n_epochs: int = setting(10, at_least=1)
    """Passes over a rollout."""
    td_lambda: float = setting(0.95, at_least=0, at_most=1)
    """Lambda of the advantages (GAE), and of the returns that V is fitted to."""
    clip_range: float = setting(0.2, above=0)
    """The ratio of new and old probability counts within 1 +- this."""
    clip_range_vf: float | None = setting(None, above=0)
    """V may move by this from the old one in its loss, in units of the rewards; None does not limit it."""
    normalize_advantage: bool = setting(True)
    """Whiten the advantages of each minibatch."""
    vf_coef: float = setting(0.5, at_least=0)
    """Weight of the critic's loss, since both share an optimiser."""
    target_kl: float | None = setting(None, above=0)
    """Ends the passes over a rollout once the policy has moved 1.5 times this far; None never does."""
    batch_size: int = _steps(64, at_least=1)
    max_grad_norm: float | None = _steps(0.5, above=0)
    """Largest global gradient norm; larger ones are scaled down."""
    hidden: int | tuple[int, ...] = _networks((64, 64), at_least=1)
    entropy_coef: float = _policy(0.0, at_least=0)
    """Weight of an entropy bonus in the actor's loss."""
    use_sde: bool = _policy(False, needs={"actions": "continuous"}, fixed=True)
    """Continuous actions: explore by noise that is a function of the observation (gSDE)."""
    sde_sample_freq: int = _policy(-1, at_least=-1, needs={"use_sde": True})
    """Steps after which that function is drawn anew; -1 only at the beginning of a rollout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize_advantage and min(self.batch_size, self.rollout_steps) < 2:
            name = "batch_size" if self.batch_size < 2 else "rollout_steps"
            raise ConfigError(f"{name}=1 leaves a single advantage, which cannot be whitened: raise {name}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACConfig(OtherConfig):
    """Settings of SAC, as Stable-Baselines3 runs it (the extra rlox[compare])."""

    tau: float = setting(0.005, above=0, at_most=1)
    """Step of the target critic, target += tau * (online - target)."""
    target_update_interval: int = setting(1, at_least=1)
    """Gradient steps between these."""
    train_freq: int = setting(1, at_least=1)
    """Steps of each environment between updates."""
    n_updates: int | None = setting(1, at_least=0)
    """Gradient steps each time; None takes as many as there were environment steps."""
    entropy_coef: float | None = _policy(None, at_least=0, fixed=True)
    """Weight of the entropy; None learns it (theirs: "auto")."""
    target_entropy: float | None = _policy(None, needs={"entropy_coef": None})
    """Entropy that such a weight keeps the policy at; None is minus the number of action components."""
    use_sde: bool = _policy(False, fixed=True)
    """Explore by noise that is a function of the observation (gSDE)."""
    sde_sample_freq: int = _policy(-1, at_least=-1, needs={"use_sde": True})
    """Steps after which that function is drawn anew; -1 only after each update."""
    buffer_size: int = _env(1_000_000, at_least=1, fixed=True)
    """Replay capacity in transitions, shared evenly by the environments; the oldest are overwritten."""
    learning_starts: int = _env(100, at_least=0)
    """Environment steps with random actions before the first update."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TD3Config(OtherConfig):
    """Settings of TD3, as Stable-Baselines3 runs it (the extra rlox[compare])."""

    tau: float = setting(0.005, above=0, at_most=1)
    """Step of the target networks, target += tau * (online - target)."""
    policy_delay: int = setting(2, at_least=1)
    """Critic steps for each step of the actor and of the targets."""
    target_policy_noise: float = setting(0.2, at_least=0)
    """Standard deviation of the noise on the target's actions, in units of half the action range."""
    target_noise_clip: float = setting(0.5, at_least=0)
    """Clamp of that noise."""
    train_freq: int = setting(1, at_least=1)
    """Steps of each environment between updates."""
    n_updates: int | None = setting(1, at_least=0)
    """Critic steps each time; None takes as many as there were environment steps."""
    learning_rate: float = _steps(1e-3, above=0)
    hidden: int | tuple[int, ...] = _networks((400, 300), at_least=1)
    action_noise: float = _policy(0.0, at_least=0)
    """Standard deviation of the normal noise on actions in training, in units of half the range; theirs is none."""
    buffer_size: int = _env(1_000_000, at_least=1, fixed=True)
    """Replay capacity in transitions, shared evenly by the environments; the oldest are overwritten."""
    learning_starts: int = _env(100, at_least=0)
    """Environment steps with random actions before the first update."""


PPO, SAC, TD3 = Other(PPOConfig), Other(SACConfig), Other(TD3Config)
