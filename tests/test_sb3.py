"""PPO, SAC and TD3 of Stable-Baselines3 behind our door: the same numbers as theirs, and what is not there is said."""

import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

pytest.importorskip("stable_baselines3")

import torch

from rlox import ALGORITHMS, Dataset, Policy, Trainer, memory
from rlox.algorithms.others import PPOConfig, SACConfig, TD3Config
from rlox.assemble import load_policy
from rlox.cli import main
from rlox.envs.envs import make_envs
from rlox.errors import CheckpointError, ConfigError, DivergedError, InvalidStepError, SpaceError
from rlox.sb3.envs import Environments
from rlox.sb3.learner import OtherLearner
from rlox.sb3.model import make_model
from rlox.sb3.policy import OtherPolicy

NAMES = ("ppo", "sac", "td3")
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"hidden": 8, "rollout_steps": 32, "batch_size": 16, "n_epochs": 2, "learning_rate_schedule": "linear"},
    "sac": {
        "hidden": 8,
        "batch_size": 8,
        "learning_starts": 40,
        "learning_rate_schedule": "linear",
        "buffer_size": 500,
    },
    "td3": {"hidden": 8, "batch_size": 8, "learning_starts": 40, "action_noise": 0.1, "buffer_size": 500},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Places(gym.Env[Any, Any]):
    """Observes the number of its episode's step and its last action; ends after ``end``, or is cut after ``cut``."""

    def __init__(self, *, end: int = 99, cut: int = 7, actions: spaces.Space[Any] | None = None, bad: int = 0):
        self.observation_space = spaces.Box(-100, 100, (2,))
        self.action_space = actions or spaces.Box(-1, 3, (1,))
        self.end, self.cut, self.bad, self.steps, self.seeds = end, cut, bad, 0, []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.t = 0
        return np.array([0, 50], np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.t += 1
        self.steps += 1
        reward = math.nan if self.steps == self.bad else float(self.t)
        obs = np.array([self.t, np.ravel(action)[0]], np.float32)
        return obs, reward, self.t == self.end, self.t == self.cut, {}


def numbers(trainer: Trainer) -> dict[str, NDArray[Any]]:
    return trainer._learner.snapshot()


def assert_same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]], *begin: str) -> None:
    names = [name for name in one if name.startswith(begin)]
    assert names
    for name in names:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_those_of_their_own_learn(name: str, n_envs: int):
    trainer = Trainer(name, lambda: Places(), seed=3, config={**SMALL[name], "n_envs": n_envs})
    trainer.train(64, log_interval=30)
    envs = make_envs(lambda: Places(), n_envs)
    theirs = Environments(envs, envs.observation_space, envs.action_space, n_envs, 3)
    model = make_model(trainer.config, theirs, 3)  # pyright: ignore[reportArgumentType]
    state = np.random.get_state(legacy=False)
    model.learn(64)
    np.random.set_state(state)
    found = numbers(trainer)
    for key, tensor in model.policy.state_dict().items():
        np.testing.assert_array_equal(found[f"train.policy.{key}"], tensor.numpy(), err_msg=key)
    assert trainer.env_steps == model.num_timesteps == 64


@pytest.mark.parametrize("name", NAMES)
def test_pieces_give_what_one_piece_gives(name: str, monkeypatch: pytest.MonkeyPatch):
    whole, parts = (Trainer(name, lambda: Places(), seed=3, config=SMALL[name]) for _ in range(2))
    whole.train(64, log_interval=1000)
    monkeypatch.setattr("rlox.sb3.learner.PATIENCE", 0)
    # What others draw in between does not matter, and is not disturbed.
    np.random.seed(0)
    torch.manual_seed(0)
    parts.train(64, log_interval=1, eval_interval=32, n_eval_episodes=1)
    drawn = np.random.rand(), torch.rand(1).item()
    assert_same(numbers(whole), numbers(parts), "train.", "random.", "replay", "counts", "recent")
    np.random.seed(0)
    torch.manual_seed(0)
    assert drawn == (np.random.rand(), torch.rand(1).item())


@pytest.mark.parametrize(("name", "optimizer"), [("ppo", "policy"), ("sac", "critic")])
def test_the_step_size_falls_to_nothing_at_the_end_of_the_budget(name: str, optimizer: str):
    seen: list[tuple[float, float]] = []
    trainer = Trainer(name, lambda: Places(), config={**SMALL[name], "learning_rate": 1e-3})
    trainer.callbacks = (lambda t, m: seen.append((m["env_steps"], m.get("train/learning_rate", math.nan))),)
    trainer.train(64, log_interval=32)
    assert seen[-1] == (64, pytest.approx(0.0))
    trainer.train(64, log_interval=32)
    assert seen[-2:] == [(96, pytest.approx(2.5e-4)), (128, pytest.approx(0.0))]


def test_defaults_are_theirs():
    for kind, n in ((PPOConfig, "ppo"), (SACConfig, "sac"), (TD3Config, "td3")):
        envs = make_envs("Pendulum-v1")
        ours = make_model(kind(), Environments(envs, envs.observation_space, envs.action_space, 1, 0), 0)
        theirs = type(ours)("MlpPolicy", gym.make("Pendulum-v1"), device="cpu", seed=0)
        skipped = ("env", "policy", "device", "start_time", "_custom_logger")
        for name, value in vars(theirs).items():
            if isinstance(value, int | float | str | tuple | type(None)) and name not in skipped:
                assert getattr(ours, name) == value, (n, name)
        assert str(ours.policy) == str(theirs.policy)
        assert ours.lr_schedule(1.0) == theirs.lr_schedule(1.0)
        for mine, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
            assert torch.equal(mine, other)


def test_settings_reach_them_under_our_names():
    def model(kind: Any, **settings: Any) -> Any:
        envs = make_envs(lambda: Places(), 2)
        config = kind(**settings)
        return make_model(config, Environments(envs, envs.observation_space, envs.action_space, 2, 0), 0)

    ppo = model(PPOConfig, rollout_steps=63, batch_size=16, td_lambda=0.5, entropy_coef=0.25, max_grad_norm=None)
    assert (ppo.n_steps, ppo.gae_lambda, ppo.ent_coef, ppo.max_grad_norm) == (32, 0.5, 0.25, math.inf)
    sac = model(SACConfig, hidden=(3, 4, 5), n_updates=None, buffer_size=300, entropy_coef=0.5)
    assert (sac.gradient_steps, sac.replay_buffer.buffer_size, float(sac.ent_coef_tensor)) == (-1, 150, 0.5)
    assert [layer.out_features for layer in sac.actor.latent_pi if hasattr(layer, "out_features")] == [3, 4, 5]
    td3 = model(TD3Config, action_noise=0.5, target_policy_noise=0.1, policy_delay=3, buffer_size=300)
    assert (td3.target_policy_noise, td3.policy_delay) == (0.1, 3)
    np.random.seed(0)
    assert np.std([td3.action_noise() for _ in range(2000)]) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("n_steps", "rollout_steps"),
        ("gae_lambda", "td_lambda"),
        ("ent_coef", "entropy_coef"),
        ("net_arch", "hidden"),
        ("lr", "learning_rate"),
    ],
)
def test_their_words_are_answered_with_ours(word: str, meant: str):
    with pytest.raises(ConfigError, match=f"'{word}' is not a setting of ppo. Did you mean '{meant}'"):
        Trainer("ppo", "CartPole-v1", config={word: 1})


def test_gradient_steps_is_answered_too():
    with pytest.raises(ConfigError, match=r"'gradient_steps' is not a setting of sac. Did you mean 'n_updates'"):
        Trainer("sac", "Pendulum-v1", config={"gradient_steps": 1})


def test_episodes_are_seeded_and_numbered_as_ours():
    ours, theirs = Places(), Places()
    awr = {"hidden": 8, "batch_size": 8, "learning_starts": 1000, "buffer_size": 500}
    Trainer("awr", ours, seed=5, config=awr).train(30)
    Trainer("sac", theirs, seed=5, config={**SMALL["sac"], "learning_starts": 1000}).train(30)
    assert theirs.seeds == ours.seeds
    assert len(set(theirs.seeds)) == 5


def test_true_last_observations_are_stored_and_a_cut_is_not_an_end():
    def stored(env: Any) -> Any:
        trainer = Trainer("sac", env, config={**SMALL["sac"], "learning_starts": 1000})
        trainer.train(7)
        return numbers(trainer)

    cut, ended = stored(Places(cut=3)), stored(Places(end=3))
    for found in (cut, ended):
        assert found["replay.observations"][:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert found["replay.next_observations"][:, 0, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]
        assert found["replay.dones"][:, 0].tolist() == [0, 0, 1, 0, 0, 1, 0]
        # Theirs are in [-1, 1].
        centred = (found["replay.next_observations"][:, 0, 1] - 1) / 2
        np.testing.assert_allclose(found["replay.actions"][:, 0, 0], centred, atol=1e-6)
    assert cut["replay.timeouts"][:, 0].tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert ended["replay.timeouts"].sum() == 0


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_steps_that_only_reset_are_neither_counted_nor_learned_from(name: str, monkeypatch: pytest.MonkeyPatch):
    envs = gym.vector.SyncVectorEnv([lambda: Places(cut=3), lambda: Places(cut=5)])
    learned: list[Any] = []
    trainer = Trainer(name, envs, config={**SMALL[name], "learning_starts": 100} if name == "sac" else SMALL[name])
    model: Any = trainer._learner.model  # pyright: ignore[reportAttributeAccessIssue]
    train = model.train
    buffer = model.rollout_buffer if name == "ppo" else model.replay_buffer
    monkeypatch.setattr(model, "train", lambda *a, **k: (learned.append(buffer.observations.copy()), train(*a, **k)))
    trainer.train(26)
    seen = (learned[0] if name == "ppo" else numbers(trainer)["replay.observations"])[:, :, 0]
    # A step from the observation that an episode ended with would be one that only reset.
    assert set(seen[:, 0]) == {0, 1, 2}
    assert set(seen[:, 1]) == {0, 1, 2, 3, 4}
    # 16 steps of both: the first has reset 4 times, the second twice.
    assert (trainer.env_steps, len(seen)) == (26, 16)
    assert trainer.episodes == 4 + 2


def test_what_an_environment_returns_is_checked():
    trainer = Trainer("ppo", Places(bad=40), config=SMALL["ppo"])
    with pytest.raises(InvalidStepError, match="Step 40 of the environment returned reward nan"):
        trainer.train(64)
    assert trainer.env_steps == 32
    trainer.train(32)
    assert trainer.env_steps == 64


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_choices_are_refused_by_those_that_cannot(name: str):
    with pytest.raises(SpaceError, match=rf"{name} takes continuous actions .* Discrete\(2\): ppo takes these"):
        Trainer(name, "CartPole-v1")


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3, start=1), spaces.MultiBinary((2, 2)), spaces.MultiDiscrete([2, 2], start=[0, 1])]
)
def test_choices_that_they_take_for_others_are_refused(space: spaces.Space[Any]):
    with pytest.raises(SpaceError, match="counts choices from 0"):
        Trainer("ppo", Places(actions=space))


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(0, 9, (2,), np.int32)]
)
def test_ppo_takes_actions_of_all_kinds(space: spaces.Space[Any]):
    trainer = Trainer("ppo", lambda: Places(actions=space), config={**SMALL["ppo"], "n_envs": 2})
    trainer.train(32)
    obs = np.array([[0, 1], [2, 3], [4, 5]], np.float32)
    for deterministic in (True, False):
        batch = trainer.predict(obs, deterministic=deterministic)
        assert batch.shape == (3, *(space.shape or ()))
        assert all(space.contains(action) for action in batch)
    assert space.contains(trainer.predict(obs[0]))


@pytest.mark.parametrize("name", NAMES)
def test_actions_between_whole_numbers_are_kept_as_they_were_drawn(name: str):
    trainer = Trainer(name, Places(actions=spaces.Box(0, 9, (2,), np.int32)), config=SMALL[name])
    trainer.train(64)
    model: Any = trainer._learner.model  # pyright: ignore[reportAttributeAccessIssue]
    actions = model.rollout_buffer.actions if name == "ppo" else model.replay_buffer.actions[:64]
    assert np.mean(actions != np.rint(actions)) > 0.5


def test_observations_of_a_dict():
    class Parts(Places):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (2,)), "b": spaces.Discrete(3)})

        def reset(self, **options: Any) -> Any:
            return {"a": super().reset(**options)[0] / 100, "b": 1}, {}

        def step(self, action: Any) -> Any:
            obs, *rest = super().step(action)
            return {"a": obs / 100, "b": 2}, *rest

    for name in ("ppo", "sac"):
        trainer = Trainer(name, Parts(), config=SMALL[name])
        trainer.train(64)
        again = OtherLearner(name, trainer.config, *spaces_of(trainer), envs=None, seed=0)  # pyright: ignore[reportArgumentType]
        again.restore(numbers(trainer))
        obs: Any = {"a": np.zeros(2, np.float32), "b": 1}
        np.testing.assert_array_equal(again.policy.predict(obs), trainer.predict(obs))


def spaces_of(trainer: Trainer) -> Any:
    return trainer.observation_space, trainer.action_space


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_run_has_everything_and_says_that_it_continues_about_as_before(name: str, tmp_path: Path):
    trainer = Trainer(name, "Pendulum-v1", config=SMALL[name], run_dir=tmp_path / "run")
    trainer.train(64)
    trainer.close()
    loaded = Trainer.load(tmp_path / "run")
    assert_same(numbers(trainer), numbers(loaded), "")
    assert loaded.env_steps == 64
    assert (loaded.gradient_steps, loaded.episodes) == (trainer.gradient_steps, trainer.episodes)
    assert loaded.evaluate(1) == trainer.evaluate(1)
    with pytest.warns(UserWarning, match="not exactly, since episodes that were under way begin anew"):
        loaded.train(64)
    assert loaded.env_steps == 128
    assert loaded.gradient_steps > trainer.gradient_steps


def test_a_run_that_continues_between_episodes_learns_what_it_would_have(tmp_path: Path):
    whole, first = (Trainer("ppo", lambda: Places(cut=8), config=SMALL["ppo"]) for _ in range(2))
    whole.train(64)
    first.train(total_timesteps=32)
    first.save(tmp_path)
    second = Trainer.load(tmp_path, env=lambda: Places(cut=8), budget={"total_timesteps": 64})
    with pytest.warns(UserWarning, match="begin anew"):
        second.train()
    found = numbers(whole), numbers(second)
    # The first part had fallen to a step size of 0 at its own end.
    assert found[0]["counts"].tolist() == found[1]["counts"].tolist()
    assert_same(*found, "recent", "streams.episode")


def test_an_environment_that_is_seeded_when_it_is_made_does_not_draw_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Trainer("sac", "Pendulum-v1", config=SMALL["sac"]) as trainer:
        trainer.train(64)
        trainer.save(tmp_path)
    seeds = []

    def made(env: Any, n: int, mode: str, seed: int, **how: Any) -> Any:
        seeds.append(seed)
        return make_envs(env, n, mode, seed, **how)

    monkeypatch.setattr("rlox.assemble.make_envs", made)
    Trainer("sac", "Pendulum-v1", config=SMALL["sac"]).close()
    Trainer.load(tmp_path).close()
    assert seeds[0] != seeds[1]


def test_a_checkpoint_without_its_replay_fills_it_first(tmp_path: Path):
    trainer = Trainer("sac", "Pendulum-v1", config=SMALL["sac"])
    trainer.train(64)
    trainer.save(tmp_path, replay=False)
    with pytest.warns(UserWarning, match="made without its replay"):
        loaded = Trainer.load(tmp_path)
    with pytest.warns(UserWarning, match="begin anew"):
        loaded.train(40)
    assert loaded.gradient_steps == trainer.gradient_steps
    loaded.train(10)
    assert loaded.gradient_steps == trainer.gradient_steps + 10


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_is_a_copy_that_acts_without_the_rest(name: str, tmp_path: Path):
    trainer = Trainer(name, "Pendulum-v1", config=SMALL[name])
    trainer.train(64)
    policy, obs = trainer.policy, np.array([[0.5, 0.5, 1], [0, 1, 0]], np.float32)
    before = policy.predict(obs)
    assert before.shape == (2, 1)
    np.testing.assert_allclose(policy.predict(obs[0]), before[0], rtol=1e-5)
    trainer.save(tmp_path / "run")
    trainer.train(64)
    np.testing.assert_array_equal(policy.predict(obs), before)
    assert not np.array_equal(trainer.predict(obs), before)
    policy.save(tmp_path / "policy.safetensors")
    for path in (tmp_path / "run", tmp_path / "policy.safetensors"):
        np.testing.assert_array_equal(load_policy(path).predict(obs), before)
    draws = [load_policy(tmp_path / "run").seeded(seed).predict(obs, deterministic=False) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.array_equal(draws[0], draws[2]) == (name == "td3")
    with pytest.raises(CheckpointError, match="no policy of ours"):
        Policy.load(tmp_path / "run")
    with pytest.raises(InvalidStepError, match="must be finite"):
        policy.predict(np.array([np.nan, 0, 0], np.float32))


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_the_noise_of_gsde_is_of_the_learned_std_and_of_the_policys_seed(name: str):
    trainer = Trainer(name, "Pendulum-v1", config=SMALL[name] | {"use_sde": True})
    model: Any = trainer._learner.model  # pyright: ignore[reportAttributeAccessIssue]
    inner = model.policy if name == "ppo" else model.actor
    with torch.no_grad():
        inner.log_std.fill_(-12.0)
    obs = np.array([[0.5, 0.5, 1.0]], np.float32)
    policy = trainer.policy
    np.testing.assert_allclose(policy.sample(obs), policy.predict(obs), atol=1e-2)
    with torch.no_grad():
        inner.log_std.fill_(0.0)
    config: Any = trainer.config
    observed, taken = spaces_of(trainer)
    wide = OtherPolicy(model.policy, observed, taken, name, config, seed=0)
    own, *draws = wide.sample(obs), *(wide.seeded(seed).sample(obs) for seed in (1, 1, 2))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    np.testing.assert_array_equal(wide.sample(obs), own)


def test_a_policy_is_loaded_without_memory_for_its_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Trainer("sac", "Pendulum-v1", config=SMALL["sac"]).save(tmp_path)
    monkeypatch.setattr(memory, "available_memory", lambda: 1)
    load_policy(tmp_path)
    for name, setting in (("sac", "buffer_size"), ("ppo", "rollout_steps")):
        with pytest.raises(ConfigError, match=f"lower {setting}"):
            Trainer(name, "Pendulum-v1", config=SMALL[name])


def test_metrics_have_our_names():
    wanted = {
        "ppo": {"policy/entropy", "policy/std", "critic/explained_variance", "train/approx_kl"},
        "sac": {"train/entropy_coef", "train/entropy_coef_loss"},
        "td3": set(),
    }
    for name, own in wanted.items():
        metrics = Trainer(name, Places(), config=SMALL[name]).train(64)
        assert own | {"actor/loss", "critic/loss", "rollout/episode_length", "train/learning_rate"} <= metrics.keys()
        assert metrics["rollout/episode_length"] == 7
        assert not {key for key in metrics if "ent_coef" in key or "_loss" in key} - {"train/entropy_coef_loss"}
    # Theirs is a Gaussian of std 1 in units of the environment, of which half the range has 2. Little was learned.
    metrics = Trainer("ppo", Places(), config=SMALL["ppo"]).train(32)
    assert metrics["policy/entropy"] == pytest.approx(1.4189 - math.log(2), abs=0.02)
    assert (metrics["gradient_steps"], metrics["policy/std"]) == (4, pytest.approx(0.5, abs=0.01))
    metrics = Trainer("ppo", Places(actions=spaces.Discrete(2)), config=SMALL["ppo"]).train(32)
    assert metrics["policy/entropy"] == pytest.approx(math.log(2), abs=0.02)


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("log_prob", lambda t: t.log_prob(np.zeros((1, 3)), np.zeros((1, 1)))),
        ("An ONNX file", lambda t: t.export_onnx("policy.onnx")),
        ("train_offline", lambda t: t.train_offline(10)),
        ("evaluate_offline", lambda t: t.evaluate_offline("pendulum-medium")),
        ("replay_dataset", lambda t: t.replay_dataset()),
        ("state", lambda t: t.state),
        ("log_prob", lambda t: t.record(10)),
    ],
)
def test_what_only_ours_can_do_is_refused_in_a_line(what: str, call: Any):
    with pytest.raises(ConfigError, match=f"^{what} is not there for sac, which runs on Stable-Baselines3: .* awr"):
        call(Trainer("sac", "Pendulum-v1", config=SMALL["sac"]))


def test_its_modes_are_recorded():
    data = Trainer("sac", "Pendulum-v1", config=SMALL["sac"]).record(10, deterministic=True)
    assert len(data) == 200


def test_data_are_refused_with_the_way_out():
    data = Dataset.load("pendulum-medium")
    with pytest.raises(ConfigError, match="td3 learns from an environment only: leave the dataset out, or use iql"):
        Trainer("td3", "Pendulum-v1", dataset=data)
    with pytest.raises(ConfigError, match="learns from an environment only"):
        Trainer("td3", dataset=data)


def test_what_diverges_is_told():
    trainer = Trainer("sac", "Pendulum-v1", config=SMALL["sac"])
    trainer.train(50)
    model: Any = trainer._learner.model  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        next(model.actor.parameters()).fill_(math.nan)
    for call in (lambda: trainer.train(20), lambda: trainer.save("nowhere")):
        with pytest.raises(DivergedError, match=r"parameter actor\.\S+ is not finite at gradient step"):
            call()


def test_a_state_of_another_shape_is_refused(tmp_path: Path):
    trainer = Trainer("sac", "Pendulum-v1", config=SMALL["sac"])
    trainer.train(50)
    wider = Trainer("sac", "Pendulum-v1", config={**SMALL["sac"], "hidden": 9})
    with pytest.raises(CheckpointError, match="made with other spaces or settings"):
        wider._learner.restore(numbers(trainer))
    for name in ("replay.rewards", "counts", "train.log_entropy_coef", "random.torch", "train.optimizer.actor.0.step"):
        other = Trainer("sac", "Pendulum-v1", config=SMALL["sac"])
        rest = {key: x for key, x in numbers(trainer).items() if key != name}
        with pytest.raises(CheckpointError, match=f"lacks '{name}'"):
            other._learner.restore(rest)
    with pytest.raises(CheckpointError, match="counts more steps than it holds"):
        other._learner.restore({**numbers(trainer), "replay_position": np.array(501)})


@pytest.mark.long
def test_the_command_line_trains_evaluates_resumes_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    flags = ["--hidden", "8", "--batch-size", "8", "--learning-starts", "40", "--buffer-size", "500"]
    run = ["--env", "Pendulum-v1", "--total-timesteps", "60", "--run-dir", "run", "--n-eval-episodes", "1"]
    torch.set_num_threads(2)
    main(["train", "sac", *run, *flags])
    assert torch.get_num_threads() == 1
    out = capsys.readouterr().out
    assert "PyTorch uses one thread" in out
    assert "Evaluation over 1 episode:" in out
    main(["evaluate", "run", "--n-episodes", "1"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main(["resume", "run", "--total-timesteps", "80"])
    out, err = capsys.readouterr()
    assert "rlox: warning: sac runs on Stable-Baselines3: it continues about as it would have" in err
    assert "Continuing run after 60 environment steps and 20 gradient steps" in out
    assert Trainer.load("run").env_steps == 80
    for args in (["export", "run", "x.onnx"], ["evaluate", "run", "--dataset", "pendulum-medium"]):
        with pytest.raises(SystemExit):
            main(args)
        assert "is not there for sac" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "td3", "--dataset", "pendulum-medium", "--gradient-steps", "5"])
    assert "td3 learns from an environment only" in capsys.readouterr().err
    main(["list"])
    assert "SAC, as Stable-Baselines3 runs it" in capsys.readouterr().out


WITHOUT = """
import sys
sys.modules["stable_baselines3"] = sys.modules["torch"] = None
from rlox.cli import main
for args in (["--help"], ["list"], ["train", "sac", "--help"]):
    main(args)
main(["train", "sac", "--env", "Pendulum-v1", "--total-timesteps", "5"])
"""


@pytest.mark.long
def test_without_their_library_only_training_is_refused(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "--entropy-coef" in done.stdout
    assert not (tmp_path / "runs").exists()
    assert done.stderr.startswith(
        "rlox: error: sac needs the extra rlox[compare]: pip install '.[compare]' in a clone of rlox"
    )
    assert done.stderr.count("\n") == 1


def test_the_registry_knows_them():
    assert set(NAMES) <= set(ALGORITHMS)
    assert Trainer("SAC", "Pendulum-v1", config=SMALL["sac"]).spec.algorithm == "sac"
    with pytest.raises(ConfigError, match=r"'sca' is not an algorithm of rlox. Did you mean 'sac'"):
        Trainer("sca", "Pendulum-v1")
    with pytest.raises(ConfigError, match="which has none"):
        Trainer("ppo", "CartPole-v1", preset="paper")


def test_a_remainder_of_a_rollout_is_told_once():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        Trainer("ppo", "CartPole-v1", config={"rollout_steps": 100, "batch_size": 64})
    assert ["has 36, not batch_size=64" in str(warning.message) for warning in found] == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "env", "steps", "config", "wanted"),
    [
        ("ppo", "CartPole-v1", 40_000, {}, 400),
        ("sac", "Pendulum-v1", 8_000, {"hidden": 64}, -250),
        ("td3", "Pendulum-v1", 10_000, {"hidden": 64, "action_noise": 0.1}, -300),
    ],
)
def test_they_learn(name: str, env: str, steps: int, config: dict[str, Any], wanted: float):
    trainer = Trainer(name, env, config=config)
    trainer.train(steps)
    assert trainer.evaluate(10)["mean_reward"] > wanted
