"""A policy in NumPy is the policy; rounds that overlap act by the one before, however long they take."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlox import Trainer
from rlox.algorithms.awr import AWRConfig
from rlox.core.acting import behavior_of, distribution
from rlox.core.distributions import Categorical
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer
from rlox.envs.collector import Collector
from rlox.errors import ConfigError, DivergedError
from rlox.regression import RegressionLearner
from rlox.runs.diagnosis import diagnose
from rlox.runs.history import read_run

CONTINUOUS = {
    "plain": {},
    "constant": {"learn_std": False, "initial_std": 0.3},
    "of the state": {"state_dependent_std": True, "initial_std": 0.5},
    "below a ceiling": {"state_dependent_std": True, "initial_std": 0.5, "max_std": 0.8},
    "normalised": {"layer_norm": True, "hidden": (16, 8, 4)},
}
ROUNDS: dict[str, Any] = {
    "hidden": 8, "batch_size": 16, "learning_starts": 20, "rollout_steps": 20, "n_critic_updates": 2,
    "n_actor_updates": 3, "n_envs": 2, "learning_rate": 1e-2, "normalize_obs": True,
}  # fmt: skip


def actor_of(nvec: tuple[int, ...] = (), **settings: Any) -> Actor:
    """Return an actor whose outputs are all different from 0 and from each other."""
    config = AWRConfig(**{"hidden": 16, "actor_output_scale": 2.0, **settings})
    actor = Actor(config, 3, nvec, len(nvec) or 2, np.random.default_rng(1))
    leaves, tree = jax.tree.flatten(actor)
    rng = np.random.default_rng(2)
    return jax.tree.unflatten(tree, [leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves])


@pytest.mark.parametrize("whitened", [False, True], ids=["raw", "whitened"])
@pytest.mark.parametrize("kind", [*CONTINUOUS, "choices"])
def test_a_policy_in_numpy_has_the_same_distribution(kind: str, whitened: bool):
    rng = np.random.default_rng(0)
    actor = actor_of((3, 2)) if kind == "choices" else actor_of(**CONTINUOUS[kind])
    normalizer = Normalizer.fit(rng.normal(2, 3, (50, 3)).astype(np.float32)) if whitened else None
    behavior = behavior_of(actor, normalizer)
    for obs in (rng.normal(size=(7, 3)).astype(np.float32), rng.integers(256, size=(7, 3)).astype(np.uint8)):
        wanted, out = distribution(actor, normalizer, obs), behavior.outputs(obs)
        found = (out,) if isinstance(wanted, Categorical) else behavior.gaussian(out)
        expected = (wanted.logits,) if isinstance(wanted, Categorical) else (wanted.mean, wanted.std)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, np.broadcast_to(theirs, ours.shape), rtol=2e-5, atol=2e-5)


def test_a_normaliser_that_has_seen_nothing_changes_nothing():
    obs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    actor = actor_of()
    np.testing.assert_array_equal(
        behavior_of(actor, Normalizer.create(3)).outputs(obs), behavior_of(actor, None).outputs(obs)
    )


def test_its_samples_are_drawn_from_that_distribution():
    obs, rng = np.ones((1, 3), np.float32), np.random.default_rng(0)
    many = np.repeat(obs, 40_000, axis=0)
    behavior = behavior_of(actor_of(state_dependent_std=True), None)
    mean, std = behavior.gaussian(behavior.outputs(obs))
    drawn = behavior.sample(many, rng)
    np.testing.assert_allclose(drawn.mean(axis=0), mean[0], atol=4 * std.max() / 200)
    np.testing.assert_allclose(drawn.std(axis=0), std[0], rtol=0.02)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03
    choosing = behavior_of(actor_of((3, 2), actor_output_scale=0.5), None)
    logits = choosing.outputs(obs)[0]
    drawn = choosing.sample(many, rng)
    assert drawn.dtype == np.int32
    for component, part in enumerate((logits[:3], logits[3:])):
        shares = np.bincount(drawn[:, component], minlength=len(part)) / len(drawn)
        np.testing.assert_allclose(shares, np.exp(part) / np.exp(part).sum(), atol=0.012)


def test_its_module_needs_no_jax():
    code = "import sys; import rlox.core.behavior; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def begin(env: str = "Pendulum-v1", **more: Any) -> tuple[Trainer, RegressionLearner]:
    trainer = Trainer("awr", env, config={**ROUNDS, "overlap": True, **more}, seed=1)
    learner: Any = trainer._learner
    return trainer, learner


@pytest.mark.long
def test_what_acts_is_one_round_old(monkeypatch: pytest.MonkeyPatch):
    trainer, learner = begin()
    policies: list[Any] = []
    acted: list[Any] = []
    learn_round = learner._programs.learn_round

    def learned(train: Any, *rest: Any) -> Any:
        # The round is given the policy of the one before, which acts from here on.
        policies.append(jax.tree.map(np.array, (train.actor, train.normalizer)))
        acted.append([])
        return learn_round(train, *rest)

    monkeypatch.setattr(learner, "_programs", learner._programs._replace(learn_round=learned))
    step = Collector.step

    def stepped(collector: Any, action: Any) -> Any:
        if acted:
            acted[-1].append((learner.state.env_steps, collector.obs.copy(), np.array(action)))
        return step(collector, action)

    monkeypatch.setattr(Collector, "step", stepped)
    trainer.train(120, progress=False)
    assert len(policies) == 6
    assert len({policy[0].network.weights[0].tobytes() for policy in policies}) == 6, "each has learned"
    draws = []
    for policy, steps in zip(policies[:-1], acted, strict=False):
        behavior = behavior_of(*policy)
        assert len(steps) == 10
        for env_steps, obs, action in steps:
            mean, std = behavior.gaussian(behavior.outputs(obs))
            draws.append((action - mean) / std)
            again = behavior.sample(obs, np.random.default_rng([learner._behavior_seed, env_steps]))
            np.testing.assert_array_equal(action, again)
    assert np.std(draws) == pytest.approx(1, abs=0.25)
    assert len(np.unique(draws)) == np.size(draws), "no noise is used twice"


def test_nothing_waits_for_a_round_before_the_next_is_full(monkeypatch: pytest.MonkeyPatch):
    trainer, learner = begin()
    trainer.train(60, progress=False)
    train = learner.state.train

    class Late:
        """Fails whoever looks at it, as a round would make them wait."""

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("nobody may look at what is being learned")

    learner.state = learner.state._replace(train=Late())  # pyright: ignore[reportArgumentType]
    computed: list[Any] = []
    monkeypatch.setattr(Normalizer, "std", property(computed.append))
    for _ in range(9):
        learner.advance(1)
        assert learner.counters.gradient_steps == 9
        assert "actor/loss" in learner.metrics()
    assert learner.state.env_steps == 78
    assert computed == [], "JAX does one thing after another"
    monkeypatch.undo()
    learner.state = learner.state._replace(train=train)
    learner.advance(1)
    assert (learner.counters.gradient_steps, int(learner.state.train.gradient_steps)) == (12, 12)


def test_a_slow_round_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    def run(seconds: float) -> Any:
        trainer, learner = begin()
        learn_round = learner._programs.learn_round

        def slow(*given: Any) -> Any:
            found = jax.block_until_ready(learn_round(*given))
            time.sleep(seconds)
            return found

        if seconds:
            monkeypatch.setattr(learner, "_programs", learner._programs._replace(learn_round=slow))
        trainer.train(100, progress=False)
        return learner.snapshot()

    one, other = run(0), run(0.02)
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_records_are_of_rounds_that_are_finished(monkeypatch: pytest.MonkeyPatch):
    found: list[float | None] = []
    reports: list[Any] = []

    def keep(_: Trainer, metrics: dict[str, float]) -> None:
        found.append(metrics.get("critic/loss"))

    trainer = Trainer("awr", "Pendulum-v1", config={**ROUNDS, "overlap": True}, callbacks=keep)
    learner: Any = trainer._learner
    learn_round = learner._programs.learn_round

    def learned(*given: Any) -> Any:
        train, replay, report = learn_round(*given)
        reports.append(report)
        return train, replay, report

    monkeypatch.setattr(learner, "_programs", learner._programs._replace(learn_round=learned))
    trainer.train(120, log_interval=20, progress=False)
    losses = [report.fetch()["critic/loss"] for report in reports]
    assert found == [None, *losses[:-1]]


@pytest.mark.long
def test_a_round_that_diverges_is_noticed_as_the_next_one_begins():
    trainer, _ = begin(learning_rate=1e30)
    with pytest.raises(DivergedError):
        trainer.train(200, progress=False)


def test_a_last_round_that_diverges_is_noticed_at_the_end(tmp_path: Path):
    config = {**ROUNDS, "overlap": True, "learning_rate": 1e30}
    trainer = Trainer("awr", "Pendulum-v1", config=config, run_dir=tmp_path / "run")
    with pytest.raises(DivergedError):
        trainer.train(20, progress=False)
    assert diagnose(read_run(tmp_path / "run"))[0].what == "Training diverged."


@pytest.mark.long
def test_offline_learning_lets_its_own_policy_act():
    trainer = Trainer("awr", "Pendulum-v1", dataset="pendulum-random", config={**ROUNDS, "overlap": True})
    learner: Any = trainer._learner
    trainer.train(60, progress=False)
    assert learner.state.behavior is not None
    trainer.train_offline(30, progress=False)
    assert learner.state.behavior is None
    assert trainer.gradient_steps == int(trainer.state.gradient_steps) == 9 + 30


def test_overlap_needs_rounds():
    with pytest.raises(ConfigError, match=r"overlap=True needs rounds: set rollout_steps=2048"):
        Trainer("awr", "CartPole-v1", config={"overlap": True})
    assert jnp.isfinite(begin("CartPole-v1")[1].state.train.actor.network.weights[0]).all()
