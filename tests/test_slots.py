"""Mistakes in an algorithm of one's own: one line names the function, what it returned and what it must return."""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import pytest

import rlox
from probes import ObservedReward
from rlox import ALGORITHMS, Algorithm, Trainer, setting
from rlox.algorithms.awr import AWRConfig
from rlox.cli import main
from rlox.cli import train as train_commands
from rlox.core.algorithm import ActorTarget
from rlox.core.config import Config
from rlox.core.update import init_state, make_actor_step
from rlox.errors import AlgorithmError, ConfigError
from rlox.modules import IMPORTED

AWR: Any = ALGORITHMS["awr"]
MAKE: Any = Algorithm
SMALL: dict[str, Any] = {"hidden": 4, "batch_size": 7, "buffer_size": 50, "learning_starts": 7}
BROKEN = """
import dataclasses
import jax.numpy as jnp
import rlox

def weight(config, advantage):
    return jnp.exp(advantage)

rlox.register("broken", dataclasses.replace(rlox.ALGORITHMS["awr"], {mistake}))
"""
pytestmark = pytest.mark.usefixtures("without_annotations")


@pytest.fixture
def own() -> Iterator[Callable[..., None]]:
    """Return what trains with some functions of AWR replaced; their algorithm is forgotten afterwards."""

    def train(rollout_steps: int | None = None, **slots: Any) -> None:
        rlox.register("own", dataclasses.replace(AWR, **slots))
        settings = {**SMALL, "rollout_steps": rollout_steps}
        Trainer("own", ObservedReward(), config=settings).train(30, progress=False)

    yield train
    ALGORITHMS.pop("own", None)


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ({"wieght": AWR.weight}, "'wieght' is not a slot of an algorithm. Did you mean 'weight'?"),
        ({"weight": 3}, "weight=3 is not a function: it must take (config, advantage)."),
        (
            {"weight": lambda advantage: advantage},
            "weight (test_slots.<lambda>) takes (advantage): it must take (config, advantage).",
        ),
        (
            {"advantage": lambda config, networks, batch, target, key: batch.reward},
            "it must take (config, networks, batch, target, key, where).",
        ),
        (
            {"critic_loss": lambda config, critic, batch, target, *, scale: (0.0, {})},
            "takes (config, critic, batch, target, *, scale): it must take (config, critic, batch, target).",
        ),
        ({"critic": lambda obs_dim: None}, "it must take (config, obs_dim, nvec, action_dim, rng)."),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_slots_that_there_are_not_and_functions_of_other_arguments_are_refused(slots: dict[str, Any], words: str):
    for make in (lambda: MAKE(config=AWRConfig, **slots), lambda: dataclasses.replace(AWR, **slots)):
        with pytest.raises(AlgorithmError, match=re.escape(words)) as error:
            make()
        assert "\n" not in str(error.value)


def test_functions_of_any_arguments_are_taken():
    class Weigher:
        def __call__(self, *args: Any, **others: Any) -> Any:
            return AWR.weight(*args)

    assert dataclasses.replace(AWR, weight=Weigher(), advantage=max).config is AWRConfig


def column(*args: Any) -> Any:
    return AWR.advantage(*args)[:, None]


def no_metrics(config: Any, advantage: Any) -> Any:
    return jnp.exp(advantage)


def listed(config: Any, advantage: Any) -> Any:
    return [jnp.exp(advantage), {}]


def a_number_of_weights(config: Any, advantage: Any) -> Any:
    return jnp.exp(advantage), {"own/mean": advantage.mean()}


def a_loss_of_each(config: Any, critic: Any, batch: Any, target: Any) -> Any:
    return (critic(batch.obs) - target) ** 2, {}


def metrics_of_each(config: Any, critic: Any, batch: Any, target: Any) -> Any:
    error = critic(batch.obs) - target
    return (error**2).mean(), {"own/error": error}


def only_weights(algorithm: Any, config: Any, networks: Any, batch: Any, advantage: Any, *_: Any) -> Any:
    return advantage


def weights_in_a_column(algorithm: Any, config: Any, networks: Any, batch: Any, advantage: Any, *_: Any) -> Any:
    return ActorTarget(batch.obs, batch.action, advantage[:, None], {})


def flat_actions(algorithm: Any, config: Any, networks: Any, batch: Any, advantage: Any, *_: Any) -> Any:
    return ActorTarget(batch.obs, batch.action[:, 0], advantage, {})


def two_samples_of_each(algorithm: Any, config: Any, networks: Any, batch: Any, advantage: Any, *_: Any) -> Any:
    return ActorTarget(batch.obs, jnp.stack([batch.action] * 2), jnp.stack([advantage] * 2), {})


def adapting(*args: Any) -> Any:
    return AWR.actor_target(*args)._replace(extra=jnp.zeros(()))


def a_metric_of_each(algorithm: Any, config: Any, networks: Any, batch: Any, advantage: Any, *_: Any) -> Any:
    return ActorTarget(batch.obs, batch.action, advantage, {"own/advantage": advantage})


class Column(eqx.Module):
    """V as a column, ``(B, 1)``."""

    critic: Any

    def __call__(self, obs: Any) -> Any:
        return self.critic(obs)[:, None]


@pytest.mark.parametrize(
    ("slot", "function", "words"),
    [
        ("value_target", lambda *args: AWR.value_target(*args)[:, None], "an array of shape (7, 1): it must return"),
        ("value_target", lambda *args: (AWR.value_target(*args), 0.0), "of an array of shape (7,) and a number"),
        ("advantage", column, "returned an array of shape (7, 1): it must return one number a sample, of shape (7,)."),
        ("advantage", lambda *_: None, "returned None: it must return one number a sample, of shape (7,)."),
        ("weight", no_metrics, "returned an array of shape (7,): it must return (weight, metrics)"),
        ("weight", listed, "returned a list: it must return (weight, metrics)"),
        ("weight", lambda config, a: (a[:, None], {}), "returned a tuple of an array of shape (7, 1) and a dict: it"),
        ("weight", lambda config, a: (a, None), "returned a tuple of an array of shape (7,) and None: it"),
        ("weight", a_number_of_weights, "returned 'own/mean' as an array of shape (): a metric of it must have shape"),
        ("critic_loss", a_loss_of_each, "array of shape (7,) and a dict: it must return (loss, metrics), the loss one"),
        ("critic_loss", lambda *_: jnp.zeros(()), "returned an array of shape (): it must return (loss, metrics)"),
        ("critic_loss", metrics_of_each, "returned 'own/error' as an array of shape (7,): a metric of it must have"),
        ("actor_target", only_weights, "returned an array of shape (7,): it must return an ActorTarget."),
        ("actor_target", weights_in_a_column, "of shapes (7, 1), (7, 1) and (7, 1): they must have shapes (B, obs_dim"),
        ("actor_target", flat_actions, "of shapes (7, 1), (7,) and (7,): they must have"),
        ("actor_target", a_metric_of_each, "returned 'own/advantage' as an array of shape (7,): a metric of it must"),
        ("critic", lambda *_: "V", "returned a str: it must return a tree of arrays"),
    ],
)  # fmt: skip
def test_what_a_function_must_return_is_said_in_one_line(own: Any, slot: str, function: Any, words: str):
    with pytest.raises(AlgorithmError) as error:
        own(**{slot: function})
    told = str(error.value)
    assert told.startswith(f"{slot} (test_slots.{function.__qualname__}) ")
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("slot", "function", "words"),
    [
        ("advantage", column, "one number a sample, of shape (50,)."),
        ("weight", no_metrics, "it must return (weight, metrics)"),
        ("critic_loss", metrics_of_each, "a metric of it must have"),
        ("actor_target", weights_in_a_column, "of shapes (50, 1), (50, 1) and (50, 1): they must have shapes (N, obs_"),
        ("actor_target", two_samples_of_each, "of shapes (50, 1), (2, 50, 1) and (2, 50): they must have shapes (N, "),
        ("actor_target", adapting, "returned an anchor, or what the algorithm adapts: rounds have no place for them."),
        ("critic", lambda *_: None, "returned None: it must return for rounds (rollout_steps) something to call"),
        ("critic", lambda *args: Column(AWR.critic(*args)), "an array of shape (1, 1): it must return one number"),
    ],
)  # fmt: skip
def test_rounds_say_it_too(own: Any, slot: str, function: Any, words: str):
    with pytest.raises(AlgorithmError) as error:
        own(rollout_steps=20, **{slot: function})
    assert str(error.value).startswith(f"{slot} (test_slots.")
    assert words in str(error.value)


def test_several_samples_of_an_observation_are_taken(own: Any):
    own(actor_target=two_samples_of_each)


@pytest.mark.long
def test_what_an_algorithm_adapts_stays_where_its_actor_target_says_nothing_of_it():
    adapting = Algorithm(config=Config, extra=lambda config, actor: jnp.float32(0.25))
    state = init_state(adapting, Config(hidden=4), 2, (3,), 1, seed=0)
    step = make_actor_step(Config(hidden=4))
    batch = ActorTarget(jnp.zeros((5, 2)), jnp.zeros((5, 1), jnp.int32), jnp.ones(5), {})
    assert step(state, batch)[0].extra == 0.25


def test_settings_of_a_class_that_is_no_dataclass_are_refused():
    class Plain(AWRConfig):
        sharpness: float = setting(2.0)

    with pytest.raises(ConfigError, match=r"@dataclasses\.dataclass\(frozen=True, kw_only=True\)"):
        rlox.register("own", dataclasses.replace(AWR, config=Plain))


@pytest.mark.parametrize("mistake", ["wieght=weight", "weight=weight"])
def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mistake: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("broken_algorithm.py").write_text(BROKEN.format(mistake=mistake))
    try:
        with pytest.raises(SystemExit) as stop:
            main(["--import", "broken_algorithm", "train", "broken", "--env", "CartPole-v1", "--total-timesteps", "40",
                  "--hidden", "4", "--batch-size", "7", "--learning-starts", "7"])  # fmt: skip
    finally:
        sys.modules.pop("broken_algorithm", None)
        ALGORITHMS.pop("broken", None)
        for name in ("broken", "BROKEN"):
            if name in train_commands.app:
                del train_commands.app[name]
    assert stop.value.code == 2
    assert not IMPORTED, "a program that goes on has not imported it"
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("rlox: error: 'wieght' is not" if mistake[1] == "i" else "rlox: error: weight (broken_")
