"""Make the data that ship with the package: four environments, four tiers each, some 10,000 steps a tier.

    python scripts/bundled_data.py                       # all of them, one process an environment
    python scripts/bundled_data.py --only Hopper-v5

AWR with the preset `tuned` trains in the environment and keeps a checkpoint at every fortieth of its steps. `random` is
uniformly random actions; `medium` the first policy whose sampled return is half-way from the random agent's to the
last one's, sampled; `medium-replay` the training up to there, or its first 10,000 steps where these are more: whole
episodes, evenly spaced; `expert` the last policy (its modes with Gaussian noise of a tenth of half the action range;
choices sampled). The references of the normalised score are the mean returns, over 100 episodes, of the random agent
(0) and of the last policy's modes (100).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax.numpy as jnp
import numpy as np

from rlox import Trainer
from rlox.core.distributions import Gaussian
from rlox.data.record import record
from rlox.envs.spaces import action_codec, describe
from rlox.presets import preset_settings

FOLDER = Path(__file__).resolve().parents[1] / "src" / "rlox" / "data" / "bundled"
STEPS = {"CartPole-v1": 50_000, "Pendulum-v1": 50_000, "LunarLander-v3": 500_000, "Hopper-v5": 1_000_000}
N_STEPS, N_POINTS, N_REFERENCE, NOISE, SEED = 10_000, 40, 100, 0.1, 0
COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "action_log_probs")


class Log(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every episode that ended, as rows of the columns."""

    def __init__(self, env: gym.Env[Any, Any], episodes: list[list[tuple[Any, ...]]]):
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


def make(env_id: str) -> None:
    """Train, choose the policies, and write the four tiers with their references."""
    name = env_id.partition("-")[0].lower()
    env = gym.make(env_id)
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    history: list[list[tuple[Any, ...]]] = []
    trainer = Trainer(
        "awr", env=lambda: Log(gym.make(env_id), history),
        config=preset_settings("awr", "tuned", env_id, discrete), seed=SEED,
    )  # fmt: skip
    uniform = math.log(env.action_space.n) if isinstance(env.action_space, gym.spaces.Discrete) else _log_volume(env)
    env.action_space.seed(SEED)
    random_data = record(env, lambda _: (env.action_space.sample(), -uniform), N_STEPS, SEED)
    write(name, "random", random_data.columns)
    random_return = mean_return(random_data.columns)
    with tempfile.TemporaryDirectory() as folder:
        points = []
        for i in range(N_POINTS):
            trainer.train(STEPS[env_id] // N_POINTS, progress=False)
            trainer.save(Path(folder) / str(i))
            policy = Trainer.load(Path(folder) / str(i), env=env_id)
            sampled = policy.evaluate(20, deterministic=False)["mean_reward"]
            points.append((sampled, len(history), trainer.env_steps))
            print(f"{env_id}: {trainer.env_steps:,} steps, sampled return {sampled:.1f}", flush=True)
        expert = Trainer.load(Path(folder) / str(N_POINTS - 1), env=env_id)
        half_way = (random_return + points[-1][0]) / 2
        place = next(i for i, (sampled, *_) in enumerate(points) if sampled >= half_way)
        medium = Trainer.load(Path(folder) / str(place), env=env_id)
    write(name, "medium", record(env, sampler(medium), N_STEPS, SEED).columns)
    write(name, "expert", record(env, sampler(expert) if discrete else noisy(expert), N_STEPS, SEED).columns)
    until = next(n for i, (_, n, env_steps) in enumerate(points) if i >= place and env_steps >= N_STEPS)
    write(name, "medium-replay", spaced(history[:until]))
    write_references(
        env,
        env_id,
        random=reference(env, lambda _: env.action_space.sample()),
        expert=expert.evaluate(N_REFERENCE, seed=SEED)["mean_reward"],
    )


def sampler(policy: Trainer) -> Any:
    """Return what samples the policy's actions, with their log-probabilities."""

    def act(obs: Any) -> tuple[Any, float]:
        action = policy.predict(obs, deterministic=False)
        return action, float(policy.log_prob(obs[None], np.asarray(action)[None])[0])

    return act


def noisy(policy: Trainer) -> Any:
    """Return what adds noise to the policy's modes, with the actions' log-probabilities."""
    space: Any = policy.action_space
    codec, rng = action_codec(space), np.random.default_rng(SEED)

    def act(obs: Any) -> tuple[Any, float]:
        mean = codec.encode(policy.predict(obs)[None])
        action = np.clip(mean + NOISE * rng.standard_normal(mean.shape), -1, 1).astype(np.float32)
        log_prob = Gaussian(jnp.asarray(mean), jnp.full(mean.shape, NOISE)).taken_log_prob(jnp.asarray(action))
        return codec.decode(action)[0], float(log_prob[0] - codec.log_scale(action)[0])

    return act


def _log_volume(env: gym.Env[Any, Any]) -> float:
    space: Any = env.action_space
    return float(np.log(space.high - space.low).sum())


def spaced(episodes: list[list[tuple[Any, ...]]]) -> dict[str, Any]:
    """Return whole episodes, evenly spaced over the training, of about ``N_STEPS`` steps."""
    share = min(N_STEPS / sum(map(len, episodes)), 1.0)
    chosen = [e for i, e in enumerate(episodes) if int((i + 1) * share) > int(i * share)]
    rows = [row for episode in chosen for row in episode]
    return dict(zip(COLUMNS, map(np.array, zip(*rows, strict=True)), strict=False))


def write(name: str, tier: str, columns: dict[str, Any]) -> None:
    """Write a tier's file, and say what is in it."""
    kinds: dict[str, Any] = {"terminals": bool, "timeouts": bool}
    table: dict[str, Any] = {key: np.asarray(columns[key]) for key in COLUMNS if key in columns}
    for key, column in table.items():
        table[key] = column.astype(kinds.get(key, np.int8 if column.dtype.kind == "i" else np.float32))
    path = FOLDER / f"{name}-{tier}.npz"
    np.savez_compressed(path, **table)
    size, steps = path.stat().st_size / 1000, len(table["rewards"])
    print(f"{path.name}: {steps:,} steps, mean return {mean_return(table):.1f}, {size:.0f} kB", flush=True)


def mean_return(columns: dict[str, Any]) -> float:
    """Return the mean of the whole episodes' returns."""
    ends = np.flatnonzero(np.asarray(columns["terminals"]) | np.asarray(columns["timeouts"]))
    return float(np.diff(np.cumsum(columns["rewards"], dtype=np.float64)[ends], prepend=0.0).mean())


def reference(env: gym.Env[Any, Any], act: Any) -> float:
    """Return the mean return of ``N_REFERENCE`` episodes."""
    returns = []
    for seed in range(N_REFERENCE):
        obs, ended, total = env.reset(seed=seed)[0], False, 0.0
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def write_references(env: gym.Env[Any, Any], env_id: str, **returns: float) -> None:
    """Add an environment's references and spaces to the table that ships."""
    path = FOLDER / "references.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    name = env_id.partition("-")[0].lower()
    made_for = {"observation_space": describe(env.observation_space), "action_space": describe(env.action_space)}
    table[name] = {"env": env_id, **{key: round(value, 1) for key, value in returns.items()}, **made_for}
    entries = ",\n".join(f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in sorted(table.items()))
    path.write_text("{\n" + entries + "\n}\n")


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(STEPS), choices=list(STEPS), help="environments (all)")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if len(args.only) == 1:
        make(args.only[0])
        return
    for env_id in args.only:
        subprocess.run([sys.executable, __file__, "--only", env_id], check=True, env=os.environ)


if __name__ == "__main__":
    main()
