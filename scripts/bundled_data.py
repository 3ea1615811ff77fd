"""Make the data that ship with the package: four environments, four tiers each, some 10,000 steps a tier.

    python scripts/bundled_data.py                       # all of them, one process an environment
    python scripts/bundled_data.py --only Hopper-v5

AWR with the preset `tuned` trains in the environment, and its policy is kept at every fortieth of its steps. `random`
is uniformly random actions; `medium` the first policy whose sampled return is half-way from the random policy's to the
last one's, sampled; `medium-replay` the training up to there, or its first 10,000 steps if these are more: whole
episodes, evenly spaced; `expert` the last policy (its modes with Gaussian noise of a tenth of half the action range;
choices sampled). The references of the normalised score are the mean returns, over 100 episodes, of the random policy
(0) and of the last policy's modes (100).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rlox import Policy, Trainer
from rlox.core.distributions import Gaussian
from rlox.envs.envs import Envs, make_envs
from rlox.envs.space_json import describe
from rlox.policy.episodes import RandomPolicy, evaluate
from rlox.policy.recording import record
from rlox.presets import preset_settings

FOLDER = Path(__file__).resolve().parents[1] / "src" / "rlox" / "data" / "bundled"
STEPS = {"CartPole-v1": 50_000, "Pendulum-v1": 50_000, "LunarLander-v3": 500_000, "Hopper-v5": 1_000_000}
N_STEPS, N_POINTS, N_REFERENCE, NOISE, SEED = 10_000, 40, 100, 0.1, 0
# As a Trainer of this seed draws them: the data that ship were made so.
EVAL_SEED, SAMPLE_SEED = (int(seed) for seed in np.random.SeedSequence([SEED, 1]).generate_state(2))
COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "action_log_probs")

Episodes = list[list[tuple[Any, ...]]]
"""Whole episodes, each of rows of the first five columns."""


class Log(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every episode that ended."""

    def __init__(self, env: gym.Env[Any, Any], episodes: Episodes):
        super().__init__(env)
        self.episodes = episodes

    def reset(self, **arguments: Any) -> Any:
        self.rows: list[tuple[Any, ...]] = []
        self.obs, info = self.env.reset(**arguments)
        return self.obs, info

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.rows.append((self.obs, np.copy(action), *result[1:4]))
        self.obs = result[0]
        if result[2] or result[3]:
            self.episodes.append(self.rows)
        return result


class Point(NamedTuple):
    """A policy on the way, the mean return of its samples, and the episodes and steps of the training before it."""

    policy: Policy
    sampled: float
    episodes: int
    env_steps: int


class Sampled:
    """Samples a policy; unlike the policy itself, ``record`` leaves it its own seed."""

    def __init__(self, policy: Policy):
        self.policy = policy.seeded(SAMPLE_SEED)
        self.observation_space, self.action_space = policy.observation_space, policy.action_space

    def predict(self, obs: Any, *, deterministic: bool = False) -> NDArray[Any]:
        """Return a sample; ``deterministic`` has no meaning here."""
        return self.policy.sample(obs)

    def log_prob(self, obs: Any, action: NDArray[Any]) -> NDArray[np.float64]:
        """Return the log-probability of sampled actions, ``(B,)``."""
        return self.policy.log_prob(obs, action)


class Noisy(Sampled):
    """Adds noise to a policy's modes."""

    def __init__(self, policy: Policy):
        super().__init__(policy)
        self.rng = np.random.default_rng(SEED)

    def predict(self, obs: Any, *, deterministic: bool = False) -> NDArray[Any]:
        """Return noisy modes; ``deterministic`` has no meaning here."""
        mean = self._mean(obs)
        action = np.clip(mean + NOISE * self.rng.standard_normal(mean.shape), -1, 1).astype(np.float32)
        return self.policy.codec.decode(action)

    def log_prob(self, obs: Any, action: NDArray[Any]) -> NDArray[np.float64]:
        """Return the log-probability of noisy modes, ``(B,)``."""
        mean, coded = self._mean(obs), self.policy.codec.encode(action)
        noise = Gaussian(jnp.asarray(mean), jnp.full(mean.shape, NOISE))
        return np.asarray(noise.taken_log_prob(jnp.asarray(coded)), np.float64) - self.policy.codec.log_scale(coded)

    def _mean(self, obs: Any) -> NDArray[np.float32]:
        return self.policy.codec.encode(self.policy.mode(obs))


def make(env_id: str, folder: Path, n_steps: int) -> None:
    """Train, choose the policies, and write the four tiers with their references."""
    name = env_id.partition("-")[0].lower()
    envs = make_envs(env_id)
    discrete = isinstance(envs.action_space, gym.spaces.Discrete)
    random = RandomPolicy(envs.observation_space, envs.action_space, SEED)
    random_data = record(random, envs, N_STEPS, seed=SEED).columns
    write(folder / f"{name}-random.npz", random_data)
    points, history = train(env_id, envs, preset_settings("awr", "tuned", env_id, discrete), n_steps)
    expert = points[-1].policy
    half_way = (mean_return(random_data) + points[-1].sampled) / 2
    place = next(i for i, point in enumerate(points) if point.sampled >= half_way)
    medium = Sampled(points[place].policy)
    write(folder / f"{name}-medium.npz", record(medium, envs, N_STEPS, seed=SEED).columns)
    best = Sampled(expert) if discrete else Noisy(expert)
    write(folder / f"{name}-expert.npz", record(best, envs, N_STEPS, seed=SEED).columns)
    until = next((p.episodes for p in points[place:] if p.env_steps >= N_STEPS), len(history))
    write(folder / f"{name}-medium-replay.npz", spaced(history[:until]))
    returns = {
        "random": random_return(random, envs),
        "expert": evaluate(expert, envs, N_REFERENCE, seed=SEED)["mean_reward"],
    }
    write_references(folder / "references.json", envs, name, env_id, returns)
    envs.close()


def train(env_id: str, envs: Envs, config: dict[str, Any], n_steps: int) -> tuple[list[Point], Episodes]:
    """Return the policies on the way, evaluated in ``envs``, and all episodes of the training."""
    history: Episodes = []
    points: list[Point] = []
    with Trainer("awr", env=lambda: Log(gym.make(env_id), history), config=config, seed=SEED) as trainer:
        for _ in range(N_POINTS):
            trainer.train(max(n_steps // N_POINTS, 1), progress=False)
            policy: Any = trainer.policy
            sampled = evaluate(policy, envs, 20, deterministic=False, seed=EVAL_SEED)["mean_reward"]
            points.append(Point(policy, sampled, len(history), trainer.env_steps))
            print(f"{env_id}: {trainer.env_steps:,} steps, sampled return {sampled:.1f}", flush=True)
    return points, history


def spaced(episodes: Episodes) -> dict[str, Any]:
    """Return whole episodes, evenly spaced over the training, of about ``N_STEPS`` steps."""
    share = min(N_STEPS / sum(map(len, episodes)), 1.0)
    chosen = [e for i, e in enumerate(episodes) if int((i + 1) * share) > int(i * share)]
    rows = [row for episode in chosen for row in episode]
    return dict(zip(COLUMNS, map(np.array, zip(*rows, strict=True)), strict=False))


def write(path: Path, columns: dict[str, Any]) -> None:
    """Write a tier's file, and say what is in it."""
    kinds: dict[str, Any] = {"terminals": bool, "timeouts": bool}
    table: dict[str, Any] = {key: np.asarray(columns[key][:]) for key in COLUMNS if key in columns}
    for key, column in table.items():
        table[key] = column.astype(kinds.get(key, np.int8 if column.dtype.kind == "i" else np.float32))
    np.savez_compressed(path, **table)
    size, steps = path.stat().st_size / 1000, len(table["rewards"])
    print(f"{path.name}: {steps:,} steps, mean return {mean_return(table):.1f}, {size:.0f} kB", flush=True)


def mean_return(columns: dict[str, Any]) -> float:
    """Return the mean of the whole episodes' returns."""
    ends = np.flatnonzero(np.asarray(columns["terminals"][:]) | np.asarray(columns["timeouts"][:]))
    return float(np.diff(np.cumsum(columns["rewards"][:], dtype=np.float64)[ends], prepend=0.0).mean())


def random_return(policy: RandomPolicy, envs: Envs) -> float:
    """Return the mean return of ``N_REFERENCE`` random episodes, each with a seed of its own."""
    returns = []
    for seed in range(N_REFERENCE):
        obs, ended, total = envs.reset(seed), False, 0.0
        while not ended:
            step = envs.step(policy.predict(obs))
            obs, ended, total = step.obs, bool(step.ended.all()), total + float(step.reward[0])
        returns.append(total)
    return float(np.mean(returns))


def write_references(path: Path, envs: Envs, name: str, env_id: str, returns: dict[str, float]) -> None:
    """Add an environment's references and spaces to the table that ships."""
    table = json.loads(path.read_text()) if path.exists() else {}
    made_for = {"observation_space": describe(envs.observation_space), "action_space": describe(envs.action_space)}
    table[name] = {"env": env_id, **{key: round(value, 1) for key, value in returns.items()}, **made_for}
    entries = ",\n".join(f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in sorted(table.items()))
    path.write_text("{\n" + entries + "\n}\n")


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(STEPS), choices=list(STEPS), help="environments (all)")
    parser.add_argument("--steps", type=int, help="environment steps of the training, for a trial")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write (src/rlox/data/bundled)")
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True, parents=True)
    if len(args.only) == 1:
        make(args.only[0], args.folder, args.steps or STEPS[args.only[0]])
        return
    steps = ["--steps", str(args.steps)] if args.steps else []
    for env_id in args.only:
        command = [sys.executable, __file__, "--only", env_id, "--folder", str(args.folder), *steps]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
