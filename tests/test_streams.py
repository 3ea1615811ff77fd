"""An environment is brought back to its place by its seed and its actions, and what it shows is summed up."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation

from probes import World
from rlox.envs.envs import Envs, make_envs
from rlox.envs.streams import Place, Stream, digest


class Scripted(gym.Env[Any, Any]):
    """Gives what it is told."""

    def __init__(self, *outcomes: tuple[Any, Any, bool, bool]):
        self.observation_space, self.action_space = spaces.Box(-9, 9, (2,)), spaces.Discrete(9)
        self.outcomes = outcomes

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.left = iter(self.outcomes)
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        return *next(self.left), {}


def digest_of(*outcomes: tuple[Any, Any, bool, bool]) -> int:
    stream = Stream(Scripted(*outcomes))
    stream.place = Place(0, 0, 0)
    stream.reset()
    for _ in outcomes:
        stream.step(0)
    return stream.trace.digest


def test_the_digest_covers_all_that_an_environment_shows():
    one, other = np.array([1.0, 2.0]), np.array([1.0, 2.5])
    base = [(one, 1.0, False, False), (other, 2.0, False, False)]
    assert digest_of(*base) == digest_of(*base)
    changed = [
        [(other, 1.0, False, False), base[1]],
        [(one, 1.5, False, False), base[1]],
        [base[0], (other, 2.0, True, False)],
        [base[0], (other, 2.0, False, True)],
        [base[1], base[0]],
        [base[0]],
    ]
    assert len({digest_of(*base), *(digest_of(*case) for case in changed)}) == 7


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": np.zeros(2), "b": 1}, {"a": np.zeros(2), "b": 2}),
        ((np.zeros(2), [1, 2]), (np.zeros(2), [1, 3])),
        (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T + 1),
        (3, 4),
        (2.5, 2.25),
        (np.int64(3), np.int64(4)),
        (np.float32(1), np.float32(2)),
    ],
)
def test_observations_of_every_kind_are_told_apart(one: Any, other: Any):
    assert digest(one) == digest(one) != digest(other)


def test_the_actions_that_are_kept_are_copies():
    stream, action = Stream(World()), np.array([1, 2])
    stream.place = Place(0, 0, 0)
    stream.reset()
    stream.step(action)
    action[:] = 0
    trace = stream.trace
    assert trace.actions is not None
    assert trace.actions.tolist() == [[1, 2]]


def walk(envs: Envs, n: int, rng: np.random.Generator) -> list[Any]:
    return [envs.step(rng.integers([2, 3], size=(envs.n, 2))) for _ in range(n)]


@pytest.mark.parametrize(
    "make", [lambda: make_envs(World), lambda: make_envs(World, 3), lambda: make_envs(World, 2, "async")]
)
def test_an_environment_comes_back_to_its_place_and_goes_on_alike(make: Callable[[], Envs]):
    envs, others = make(), make()
    envs.go_to([Place(7, i, 4) for i in range(envs.n)])
    walk(envs, 45, np.random.default_rng(0))
    traces = envs.traces()
    assert max(trace.episode for trace in traces) > 4
    actions = [trace.actions if trace.actions is not None and len(trace.actions) else () for trace in traces]
    others.go_to([Place(7, i, trace.episode, actions[i]) for i, trace in enumerate(traces)])
    assert [trace.digest for trace in others.traces()] == [trace.digest for trace in traces]
    for one, other in zip(*(walk(e, 40, np.random.default_rng(1)) for e in (envs, others)), strict=True):
        np.testing.assert_array_equal(one.reward, other.reward)
        np.testing.assert_array_equal(one.obs["place"], other.obs["place"])
        np.testing.assert_array_equal(one.ended, other.ended)
    envs.close()
    others.close()


def test_a_wrapper_that_remembers_earlier_episodes_is_noticed():
    def make() -> Any:
        return NormalizeObservation(gym.make("CartPole-v1"))

    envs, fresh = make_envs(make), make_envs(make)
    envs.go_to([Place(0, 0, 0)])
    for _ in range(60):
        envs.step(np.zeros(1, int))
    (trace,) = envs.traces()
    assert trace.episode > 2
    fresh.go_to([Place(0, 0, trace.episode, trace.actions if trace.actions is not None else ())])
    assert fresh.traces()[0].digest != trace.digest


def test_a_reset_with_a_seed_leaves_the_numbered_episodes():
    plain, stream = World(), Stream(World())
    stream.place = Place(0, 0, 3)
    stream.reset()
    stream.step([0, 0])
    for seed in (5, None):
        np.testing.assert_array_equal(stream.reset(seed=seed)[0]["place"], plain.reset(seed=seed)[0]["place"])
    stream.step([0, 0])
    assert stream.trace.episode == -1
