"""Environments of every make give true transitions, and say what is wrong where one misbehaves."""

import contextlib
import functools
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from inside import training_envs
from probes import Counting, Diary, NoSeed, ObservationOnly, only_here
from rlox import Trainer
from rlox.envs.collector import Collector, EpisodeCounter
from rlox.envs.envs import Envs, Step, make_envs
from rlox.envs.spaces import action_codec, obs_encoder
from rlox.errors import ConfigError, DatasetError, InvalidStepError, WorkerDiedError
from rlox.policy.episodes import RandomPolicy, episodes
from rlox.policy.recording import record

LENGTHS = (3, 5, 2)


def sync(mode: AutoresetMode, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([functools.partial(Counting, n, **kwargs) for n in LENGTHS], autoreset_mode=mode)


def asynchronous(mode: AutoresetMode, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    makers = [functools.partial(Counting, n, **kwargs) for n in LENGTHS]
    return AsyncVectorEnv(makers, context="forkserver", autoreset_mode=mode)


MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]
every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
every_make = pytest.mark.parametrize(
    ("make", "lengths"),
    [
        pytest.param(Counting, (3,), id="single"),
        pytest.param(functools.partial(Counting, reuse=True), (3,), id="single that reuses its array"),
        *[pytest.param(functools.partial(sync, mode), LENGTHS, id=f"sync {mode.name}") for mode in MODES],
        pytest.param(
            lambda: SyncVectorEnv([Counting, Counting], copy=False, autoreset_mode=AutoresetMode.SAME_STEP),
            (3, 3),
            id="sync without copies",
        ),
    ],
)


def start(envs: Envs) -> Collector:
    encoder, codec = obs_encoder(envs.observation_space), action_codec(envs.action_space)
    collector = Collector(envs, encoder, codec, np.random.SeedSequence(0))
    collector.start()
    return collector


def collect(envs: Envs, steps: int) -> tuple[list[list[Any]], list[Any]]:
    """Return each stream's real transitions as ``(obs, reward, next_obs, terminated, truncated)``, and episodes."""
    collector = start(envs)
    streams, ended = [[] for _ in range(envs.n)], []
    for step in range(steps):
        t, valid, episodes = collector.step(collector.random_action(step))
        ended += episodes
        for i in np.flatnonzero(valid):
            streams[i].append((t.obs[i], t.reward[i], t.next_obs[i], t.terminated[i], t.truncated[i]))
    return [
        [(float(o[0]), float(r), float(n[0]), bool(te), bool(tr)) for o, r, n, te, tr in stream] for stream in streams
    ], ended


def counted(length: int, steps: int, cut: bool = False) -> list[Any]:
    """Return the transitions of ``steps`` steps of a Counting environment."""
    found = []
    for step in range(steps):
        count = step % length
        ended = count + 1 == length
        found.append((float(count), count + 1.0, count + 1.0, ended and not cut, ended and cut))
    return found


def step_many(envs: Envs, steps: int) -> None:
    collector = start(envs)
    for _ in range(steps):
        collector.step(np.zeros((envs.n, 1), np.int32))


@every_make
def test_each_stream_holds_true_transitions(make: Callable[[], Any], lengths: tuple[int, ...]):
    streams, _ = collect(Envs(make()), 20)
    for stream, length in zip(streams, lengths, strict=True):
        assert stream == counted(length, len(stream))


@every_mode
@pytest.mark.parametrize("cut", [False, True])
def test_terminated_and_truncated_are_told_apart(mode: AutoresetMode, cut: bool):
    streams, _ = collect(Envs(sync(mode, cut=cut)), 12)
    for stream, length in zip(streams, LENGTHS, strict=True):
        assert stream == counted(length, len(stream), cut)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=lambda mode: mode.name)
def test_environments_in_other_processes_give_true_transitions(mode: AutoresetMode):
    env = asynchronous(mode)
    try:
        streams, _ = collect(Envs(env), 12)
    finally:
        env.close()
    for stream, length in zip(streams, LENGTHS, strict=True):
        assert stream == counted(length, len(stream))


@every_mode
def test_only_next_step_autoreset_spends_steps_on_resets(mode: AutoresetMode):
    streams, _ = collect(Envs(sync(mode)), 12)
    resets = [12 // (length + 1) if mode == AutoresetMode.NEXT_STEP else 0 for length in LENGTHS]
    assert [len(stream) for stream in streams] == [12 - n for n in resets]


@every_mode
def test_episodes_have_their_own_returns_and_lengths(mode: AutoresetMode):
    _, episodes = collect(Envs(sync(mode)), 12)
    for length in LENGTHS:
        own = [episode for episode in episodes if episode.length == length]
        assert len(own) == 12 // (length + (mode == AutoresetMode.NEXT_STEP))
        assert {episode.episode_return for episode in own} == {length * (length + 1) / 2}


def test_a_new_start_forgets_the_episodes_that_were_running():
    envs = Envs(sync(AutoresetMode.NEXT_STEP))
    step_many(envs, 2)
    streams, _ = collect(envs, 4)
    assert streams[2] == counted(2, 3), "the reset that was due before the new start is not"


@every_mode
@pytest.mark.parametrize(("n_episodes", "each"), [(6, (2, 2, 2)), (4, (2, 1, 1)), (2, (1, 1, 0))])
def test_an_evaluation_counts_as_many_episodes_of_each_environment(
    mode: AutoresetMode, n_episodes: int, each: tuple[int, ...]
):
    found = Trainer("awr", env=sync(mode), config={"hidden": 4}).evaluate(n_episodes)
    lengths = np.repeat(LENGTHS, each)
    assert found["n_episodes"] == n_episodes
    assert found["mean_length"] == lengths.mean()
    assert found["mean_reward"] == (lengths * (lengths + 1) / 2).mean()
    assert (found["min_reward"], found["max_reward"]) == (3 if each[2] else 6, 15)


def test_a_single_environment_tells_cuts_from_ends():
    for cut in (False, True):
        (stream,), episodes = collect(Envs(Counting(cut=cut)), 7)
        assert stream == counted(3, 7, cut)
        assert [tuple(episode) for episode in episodes] == [(6.0, 3)] * 2


def test_an_episode_that_was_cut_from_outside_does_not_go_on():
    collector = start(Envs(Counting(5)))
    for _ in range(2):
        collector.step(np.zeros((1, 1), np.int32))
    collector.end_episodes()
    collector.start()
    episodes = [episode for _ in range(5) for episode in collector.step(np.zeros((1, 1), np.int32))[2]]
    assert [tuple(episode) for episode in episodes] == [(15.0, 5)]


def test_random_actions_are_counted_from_zero_and_take_every_value():
    env = Counting()
    env.action_space = spaces.Discrete(3, start=5)
    collector = start(Envs(env))
    drawn = np.concatenate([collector.random_action(step) for step in range(60)])
    assert drawn.shape == (60, 1)
    assert np.unique(drawn).tolist() == [0, 1, 2]


def test_a_step_that_only_resets_counts_for_nothing():
    counter, no = EpisodeCounter(2), np.zeros(2, bool)
    for valid in ([True, False], [True, True]):
        step = Step(np.full(2, 5.0, np.float32), None, no, no, np.array(valid), None)
        assert counter.count(step) == []
    last = Step(np.ones(2, np.float32), None, ~no, no, ~no, None)
    assert counter.count(last) == [(0, (11.0, 3)), (1, (6.0, 2))]


def test_episodes_of_all_environments_are_counted():
    trainer = Trainer("awr", env=sync(AutoresetMode.SAME_STEP), config=COLLECTING)
    metrics = trainer.train(36, progress=False)
    # In twelve steps, four of length 3, two of 5 and six of 2.
    assert metrics["episodes"] == 12
    assert metrics["mean_reward"] == (4 * 6 + 2 * 15 + 6 * 3) / 12
    assert metrics["rollout/episode_length"] == (4 * 3 + 2 * 5 + 6 * 2) / 12


@every_mode
def test_there_are_as_many_updates_as_steps(mode: AutoresetMode):
    config = {"hidden": 4, "batch_size": 4, "learning_starts": 9}
    with Trainer("awr", env=sync(mode), config=config) as trainer:
        trainer.train(90, progress=False)
        # The first ones come with the third step of three environments.
        assert trainer.gradient_steps == pytest.approx(trainer.env_steps - 6, abs=2)


COLLECTING: dict[str, Any] = {"hidden": 4, "batch_size": 4, "buffer_size": 300, "learning_starts": 1000}
schedules = pytest.mark.parametrize("rounds", [{}, {"rollout_steps": 45}], ids=["every step", "rounds"])


@every_mode
@schedules
def test_the_replay_of_a_trainer_holds_no_phantom_transitions(mode: AutoresetMode, rounds: dict[str, int]):
    config = COLLECTING | rounds
    trainer = Trainer("awr", env=sync(mode), config=config)
    trainer.train(60, progress=False)
    rows = stored_rows(trainer)
    assert trainer.env_steps == len(rows) >= 60
    for length, size in zip(LENGTHS, sizes_of_streams(mode, 60), strict=True):
        assert rows[:size] == stopped(length, size)
        rows = rows[size:]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=lambda mode: mode.name)
@schedules
@pytest.mark.parametrize("steps", [4, 9])
def test_an_evaluation_cuts_each_stream_where_it_stands(mode: AutoresetMode, rounds: dict[str, int], steps: int):
    trainer = Trainer("awr", env=sync(mode), config=COLLECTING | rounds)
    trainer.train(steps, progress=False)
    trainer.evaluate(3)
    trainer.train(12, progress=False)
    rows = stored_rows(trainer)
    sizes = zip(LENGTHS, sizes_of_streams(mode, steps), sizes_of_streams(mode, 12), strict=True)
    for length, before, after in sizes:
        assert rows[: before + after] == stopped(length, before) + stopped(length, after)
        rows = rows[before + after :]
    assert not rows


def stored_rows(trainer: Trainer) -> list[Any]:
    """Return the replay's steps as ``counted`` has them, stream after stream."""
    data = trainer.replay_dataset()
    names = ("observations", "rewards", "next_observations", "terminals", "timeouts")
    obs, reward, next_obs, terminated, truncated = (data.columns[name][:].astype(float) for name in names)
    return list(zip(obs[:, 0], reward, next_obs[:, 0], terminated, truncated, strict=True))


def stopped(length: int, steps: int) -> list[Any]:
    """Return what ``counted`` does, cut where it stands."""
    *rows, (obs, reward, next_obs, terminated, _) = counted(length, steps)
    return [*rows, (obs, reward, next_obs, terminated, not terminated)]


def sizes_of_streams(mode: AutoresetMode, total: int) -> list[int]:
    """Return how many steps each stream has where they have ``total`` together."""
    spent = [length + 1 if mode == AutoresetMode.NEXT_STEP else 10**9 for length in LENGTHS]
    found = ([steps - steps // each for each in spent] for steps in range(total))
    return next(sizes for sizes in found if sum(sizes) >= total)


def test_the_last_observation_of_a_dict_space_is_kept():
    class DictCounting(gym.ObservationWrapper[Any, Any, Any]):
        def __init__(self):
            super().__init__(Counting(2))
            self.observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (1,)), "b": spaces.Box(-9, 9, (1,))})

        def observation(self, observation: Any) -> Any:
            return {"a": observation[:1], "b": -observation[1:]}

    collector = start(Envs(SyncVectorEnv([DictCounting] * 2, autoreset_mode=AutoresetMode.SAME_STEP)))
    transitions = [collector.step(np.zeros((2, 1), np.int32))[0] for _ in range(2)]
    assert transitions[-1].obs.tolist() == [[1.0, -1.0]] * 2
    assert transitions[-1].next_obs.tolist() == [[2.0, -2.0]] * 2
    assert collector.obs.tolist() == [[0.0, 0.0]] * 2


SPOILED = [
    ("obs", np.array([0.0, np.nan], np.float32), r"observation\[1\] is nan"),
    ("obs", np.array([-np.inf, 0.0], np.float32), r"observation\[0\] is -inf"),
    ("reward", np.nan, "reward.*nan.*finite"),
    ("reward", np.inf, "reward.*inf.*finite"),
]


@pytest.mark.parametrize("step", [4, 6], ids=["within an episode", "at its end"])
@pytest.mark.parametrize(("what", "value", "complaint"), SPOILED)
def test_what_is_not_finite_is_refused_with_its_step_and_entry(step: int, what: str, value: Any, complaint: str):
    with pytest.raises(InvalidStepError, match=f"Step {step} of the environment.*{complaint}"):
        step_many(Envs(Counting(spoil=(step, what, value))), 20)


@every_mode
@pytest.mark.parametrize("step", [1, 2], ids=["within an episode", "at its end"])
@pytest.mark.parametrize(("what", "value", "complaint"), SPOILED)
def test_what_is_not_finite_is_refused_in_a_vector_too(
    mode: AutoresetMode, step: int, what: str, value: Any, complaint: str
):
    spoiled = functools.partial(Counting, 2, spoil=(step, what, value))
    envs = Envs(SyncVectorEnv([Counting, spoiled], autoreset_mode=mode))
    which = r" \(number 1 of 0 to 1\) returned a bad" if what == "obs" else ".*"
    with pytest.raises(InvalidStepError, match=f"Step {step} of the environment{which}.*{complaint}"):
        step_many(envs, 20)


@pytest.mark.parametrize(
    ("what", "value", "complaint"),
    [
        ("obs", np.zeros(3, np.float32), r"Step 2 .*observation has shape \(3,\), but the space says \(2,\)"),
        ("obs", np.zeros((1, 2), np.float32), r"Step 2 .*observation has shape \(1, 2\), but the space says \(2,\)"),
        ("obs", 0.0, r"Step 2 .*observation has shape"),
        ("obs", None, r"Step 2 .*observation"),
        ("reward", np.zeros(2), "Step 2 .*reward.*a finite number"),
        ("reward", None, "Step 2 .*reward.*a finite number"),
        ("reward", "much", "Step 2 .*reward.*a finite number"),
        ("reward", 1e300, "Step 2 .*reward.*a finite number"),
    ],
)
def test_a_wrong_shape_or_type_is_refused_with_its_step(what: str, value: Any, complaint: str):
    with pytest.raises(InvalidStepError, match=complaint):
        step_many(Envs(Counting(5, spoil=(2, what, value))), 5)


class Answers(Counting):
    """Returns from ``step`` what a function makes of what it would."""

    def __init__(self, answer: Callable[..., Any], space: spaces.Space[Any] | None = None, obs: Any = None):
        super().__init__()
        self.answer, self.obs = answer, obs
        self.observation_space = self.observation_space if space is None else space

    def show(self) -> Any:
        return super().show() if self.obs is None else self.obs

    def step(self, action: Any) -> Any:
        return self.answer(*super().step(action))


told_of_a_worker = pytest.mark.filterwarnings("ignore:.*ERROR")
many = pytest.mark.parametrize(("n", "mode"), [(1, "sync"), (2, "sync"), (2, "async")], ids=["one", "sync", "async"])
REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "four values": (lambda obs, reward, terminated, *_: (obs, reward, terminated, {}), "returned 4 values: its step"),
    "nothing": (lambda *_: None, "returned a NoneType: its step.. must return obs, reward"),
    "two flags": (lambda obs, reward, *_: (obs, reward, np.zeros(2, bool), False, {}), "returned terminated .*True or"),
    "no reward": (lambda obs, _, *rest: (obs, None, *rest), "returned reward None: it must be a finite number"),
    "two rewards": (lambda obs, _, *rest: (obs, np.zeros(2), *rest), r"returned reward array\(.*: it must be a finite"),
}


@pytest.mark.long
@told_of_a_worker
@many
@pytest.mark.parametrize(("answer", "told"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_answer_is_refused_however_environments_are_stepped(
    n: int, mode: str, answer: Callable[..., Any], told: str
):
    envs = make_envs(functools.partial(Answers, answer), n, mode)
    with contextlib.closing(envs), pytest.raises(InvalidStepError, match=told):
        step_many(envs, 5)


@pytest.mark.filterwarnings("ignore:.*WARN")
def test_an_answer_that_gymnasium_s_wrappers_cannot_take_apart_is_refused_too(monkeypatch: pytest.MonkeyPatch):
    old: Any = functools.partial(Answers, REFUSED["four values"][0])
    monkeypatch.setitem(gym.registry, "Old-v0", EnvSpec("Old-v0", entry_point=old))
    with pytest.raises(InvalidStepError, match=r"its step\(\) must return obs, reward, terminated, truncated and info"):
        step_many(make_envs("Old-v0"), 2)


def of_arrays(obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
    return obs, np.array([reward]), np.array([terminated]), np.array([[truncated]]), info


def of_odd_infos(*step: Any) -> Any:
    return *step[:4], {"winner": None if step[1] % 2 else 1, "found": np.zeros(int(step[1])), "f": lambda: 0}


@pytest.mark.long
@many
@pytest.mark.parametrize("answer", [of_arrays, of_odd_infos])
def test_arrays_of_one_and_any_info_are_taken(n: int, mode: str, answer: Callable[..., Any]):
    with contextlib.closing(make_envs(functools.partial(Answers, answer), n, mode)) as envs:
        envs.reset(0)
        steps = [envs.step(np.zeros(n, int)) for _ in range(6)]
    assert [step.reward.tolist() for step in steps] == [[x] * n for x in (1, 2, 3, 1, 2, 3)]
    assert [step.ended.tolist() for step in steps] == [[x] * n for x in (False, False, True) * 2]


BYTES = spaces.Box(0, 255, (2,), np.uint8)
NOT_DECLARED: dict[str, tuple[spaces.Space[Any], Any, str]] = {
    "bytes beyond": (BYTES, np.array([300, 0]), "observation has an entry 300, which is outside"),
    "choices that are none": (spaces.Discrete(3), 1.7, "observation is .*1.7.*takes whole numbers"),
    "a wrong shape": (BYTES, np.zeros(3, np.uint8), r"observation has shape \(3,\), but the space says \(2,\)"),
    "no entry": (spaces.Dict({"a": BYTES}), {"b": np.zeros(2, np.uint8)}, "observation has no entry 'a'"),
}


@pytest.mark.long
@told_of_a_worker
@many
@pytest.mark.parametrize(("space", "obs", "told"), NOT_DECLARED.values(), ids=NOT_DECLARED)
def test_what_a_space_does_not_hold_is_refused_and_not_cut(
    n: int, mode: str, space: spaces.Space[Any], obs: Any, told: str
):
    env = functools.partial(Answers, lambda *step: step, space, obs)
    with contextlib.closing(make_envs(env, n, mode)) as envs, pytest.raises(InvalidStepError, match=told):
        start(envs)


@pytest.mark.long
@told_of_a_worker
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("space", "obs", "told"),
    [
        (spaces.Box(0, 100, (1,), np.uint8), np.array([300]), "entries such as 300, which .* cannot hold"),
        (spaces.Box(0, 10, (1,), np.int32), np.array([1.7]), "entries such as 1.7, which .* cannot hold"),
        (spaces.MultiBinary(1), np.array([0.7]), "entries such as 0.7, which .* cannot hold"),
    ],
)
@pytest.mark.filterwarnings("ignore:observation is an array of floats")
def test_what_the_type_of_a_space_would_cut_is_refused(mode: str, space: spaces.Space[Any], obs: Any, told: str):
    envs = make_envs(functools.partial(Answers, lambda *step: step, space, obs), 2, mode)
    with contextlib.closing(envs), pytest.raises(InvalidStepError, match=f"The reset of the environment .*{told}"):
        start(envs)


@pytest.mark.long
@many
@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (BYTES, np.array([200, 7])),
        (spaces.Dict({"a": BYTES, "b": spaces.Discrete(3)}), {"b": 2.0, "a": [200, 7]}),
        (spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-1, 1, (1,))]), ([True, False], np.array([0.5]))),
    ],
)
def test_what_a_space_holds_may_come_in_another_type(n: int, mode: str, space: spaces.Space[Any], obs: Any):
    env = functools.partial(Answers, lambda *step: step, space, obs)
    alone = start(make_envs(env)).obs
    with contextlib.closing(make_envs(env, n, mode)) as envs:
        assert start(envs).obs.tolist() == alone.tolist() * n


class Scaling(Diary):
    """Scales its actions where they are."""

    def step(self, action: Any) -> Any:
        action *= 0.5
        return super().step(action)


@pytest.mark.long
@many
def test_an_environment_may_write_into_its_actions(n: int, mode: str, tmp_path: Path):
    config = {"hidden": 4, "batch_size": 8, "learning_starts": 100, "n_envs": n, "vectorization_mode": mode}
    with Trainer("awr", Scaling, config=config, run_dir=tmp_path / "run") as trainer:
        trainer.train(10 * n, progress=False)
        given = trainer.replay_dataset().columns["actions"]
        trace = trainer._learner.snapshot()["streams.actions"]  # pyright: ignore
    assert np.isin(trace, given[:]).all()
    with Trainer.load(
        tmp_path / "run", env=Scaling
    ) as loaded:  # a warning, which is an error, if it came back elsewhere
        loaded.train(n, progress=False)
        recorded = loaded.record(20)
    shown = recorded.columns["action_log_probs"][:]
    again = loaded.log_prob(recorded.columns["observations"][:], recorded.columns["actions"][:])
    np.testing.assert_allclose(shown, again, rtol=1e-4, atol=1e-4)


def test_one_environment_in_several_places_is_refused():
    env = Counting()
    with pytest.raises(ConfigError, match="returned the same Counting twice: it must make a new one each time"):
        make_envs(lambda: env, 2)
    first = make_envs(lambda: env)
    with pytest.raises(ConfigError, match="returned the same Counting twice"):
        make_envs(lambda: env)
    first.close()
    several = SyncVectorEnv([Counting], autoreset_mode=AutoresetMode.SAME_STEP)
    kept = make_envs(lambda: several)
    with pytest.raises(ConfigError, match="returned the same SyncVectorEnv twice"):
        make_envs(lambda: several)
    kept.close()
    second = make_envs(lambda: env)
    del second
    gc.collect()
    make_envs(lambda: env)


@pytest.mark.long
@told_of_a_worker
def test_an_error_that_cannot_be_pickled_ends_training_and_leaves_what_was_learned(tmp_path: Path):
    class SimulatorError(Exception):
        def __init__(self, what: str, code: int):
            super().__init__(f"{what} ({code})")
            self.lock = threading.Lock()

    class Failing(Counting):
        def step(self, action: Any) -> Any:
            if self.count == 2:
                raise SimulatorError("valve stuck", 7)
            return super().step(action)

    config = {"hidden": 4, "batch_size": 4, "learning_starts": 2, "n_envs": 2, "vectorization_mode": "async"}
    with Trainer("awr", Failing, config=config, run_dir=tmp_path / "run") as trainer:
        with pytest.raises(RuntimeError, match=r"SimulatorError: valve stuck \(7\)"):
            trainer.train(100, checkpoint_interval=2, progress=False)
        with pytest.raises(WorkerDiedError, match=r"An environment raised an error at step 3 .*valve stuck"):
            trainer.train(100, progress=False)
        trainer.save(tmp_path / "copy")
        learned = trainer.gradient_steps
    with Trainer.load(tmp_path / "run", env=Counting) as loaded:  # as it was at the last checkpoint
        assert loaded.env_steps == 4
        loaded.train(4, progress=False)
    with Trainer.load(tmp_path / "copy", env=Counting) as loaded:
        assert loaded.gradient_steps == learned > 0
        with pytest.warns(UserWarning, match="episode"):
            loaded.train(4, progress=False)


def test_a_vector_environment_that_does_not_say_when_it_resets_is_warned_of():
    env = sync(AutoresetMode.SAME_STEP)
    env.metadata = {}
    with pytest.warns(UserWarning, match="does not say when it resets"):
        Envs(env)


def test_last_observations_that_are_missing_are_asked_for():
    class Forgetful(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            *step, info = super().step(actions)
            info.pop("final_obs", None)
            return *step, info

    envs = Envs(Forgetful([Counting], autoreset_mode=AutoresetMode.SAME_STEP))
    with pytest.raises(InvalidStepError, match="its info has no 'final_obs'"):
        step_many(envs, 5)


def test_an_episode_without_an_end_is_warned_of(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlox.policy.episodes.LONGEST", 50)
    found = episodes(make_envs(lambda: Counting(60)), lambda _: np.zeros(1, int), 2, 0)
    with pytest.warns(UserWarning, match="An episode has taken 50 steps, and goes on") as said:
        assert len(list(found)) == 2
    assert len(said) == 1
    # Counted anew in the next episode.
    assert len(list(episodes(make_envs(lambda: Counting(40)), lambda _: np.zeros(1, int), 3, 0))) == 3
    env = make_envs(lambda: Counting(60))
    with pytest.warns(UserWarning, match="An episode has taken 50 steps"):
        record(RandomPolicy(env.observation_space, env.action_space, 0), env, 1)


def test_spaces_that_data_cannot_have_are_refused_before_a_step():
    class Speaking(Counting):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Text(5)

        def step(self, action: Any) -> Any:
            raise AssertionError

    env = make_envs(Speaking)
    with pytest.raises(DatasetError, match=r"Observation space Text.* is not supported"):
        record(RandomPolicy(env.observation_space, env.action_space, 0), env, 1)


def test_a_bad_observation_of_a_reset_says_so():
    class Broken(Counting):
        def show(self) -> Any:
            return np.full(2, np.nan, np.float32)

    with pytest.raises(InvalidStepError, match=r"[Rr]eset of the environment.*observation\[0\] is nan"):
        start(Envs(Broken()))


def test_a_broken_environment_stops_training_with_its_step():
    trainer = Trainer("awr", env=Counting(spoil=(7, "reward", np.nan)), config={"hidden": 4})
    with pytest.raises(InvalidStepError, match=r"Step 7 .*reward"):
        trainer.train(20, progress=False)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("CartPol-v1", "CartPole"),
        ("CartPole", "Did you mean 'CartPole-v1'"),
        ("CartPole-v9", "CartPole-v1|v1"),
        ("cartpole", "CartPole|cartpole"),
    ],
)
def test_an_unknown_id_keeps_gymnasiums_suggestion(name: str, suggestion: str):
    with pytest.raises(ConfigError, match=f"Environment '{name}' could not be created.*({suggestion})") as error:
        make_envs(name)
    assert "\n" not in str(error.value)


def test_an_id_in_a_module_that_is_missing_is_refused():
    with pytest.raises(ConfigError, match="no_such_module"):
        make_envs("no_such_module:Env-v0")


@pytest.mark.parametrize("n", [1, 3])
def test_ids_and_callables_are_made_as_often_as_asked(n: int):
    for env in ("CartPole-v1", Counting, functools.partial(Counting, 4), lambda: Counting(4)):
        envs = make_envs(env, n)
        assert envs.n == n
        assert envs.reset(0).shape[0] == n
        envs.close()


def test_several_environments_of_one_id_start_differently():
    obs = make_envs("CartPole-v1", 3).reset(0)
    assert len(np.unique(obs[:, 0])) == 3


def test_a_seed_decides_all_later_resets():
    def first_observations() -> Any:
        envs = make_envs("CartPole-v1")
        return [envs.reset(3), *(envs.step(np.zeros(1, np.int64)).obs for _ in range(30))]

    np.testing.assert_array_equal(first_observations(), first_observations())


@pytest.mark.parametrize("env", [3, ["CartPole-v1"], b"CartPole-v1", Counting().observation_space])
def test_something_that_is_no_environment_is_refused(env: Any):
    with pytest.raises(ConfigError, match=r"must be an id, a gymnasium\.Env, a VectorEnv, or a callable"):
        make_envs(env)


def test_a_trainer_without_an_environment_is_refused():
    with pytest.raises(ConfigError, match="pass env="):
        Trainer("awr")


@pytest.mark.parametrize("n", [1, 2])
def test_a_callable_that_makes_no_environment_is_refused(n: int):
    with pytest.raises(ConfigError, match=r"callable given as env returned a NoneType: it must make a gymnasium\.Env"):
        make_envs(lambda: None, n)


def test_a_ready_made_environment_is_not_multiplied():
    for env, n in ((Counting(), 1), (sync(AutoresetMode.SAME_STEP), 3)):
        assert make_envs(env).n == n
        assert make_envs(env, n).n == n
        with pytest.raises(ConfigError, match=f"n_envs=2.*ready-made and steps {n}"):
            make_envs(env, 2)


def test_a_callable_that_makes_a_vector_environment_is_taken():
    assert make_envs(lambda: sync(AutoresetMode.SAME_STEP)).n == 3


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_last_observations_are_kept_where_a_reset_writes_into_the_same_array(mode: str):
    envs = make_envs(functools.partial(Counting, reuse=True), 2, mode)
    try:
        for stream in collect(envs, 7)[0]:
            assert stream == counted(3, 7)
    finally:
        envs.close()


def refuses(error: Exception) -> Any:
    """Return a maker of environments whose steps end with an error of their own."""

    class Refusing(Counting):
        def step(self, action: Any) -> Any:
            raise error

    return Refusing


def test_an_error_of_a_connection_that_the_environment_has_is_its_own():
    envs = make_envs(refuses(ConnectionResetError("the simulator is gone")), 2)
    with pytest.raises(ConnectionResetError, match="the simulator is gone"):
        step_many(envs, 1)


def test_an_environment_that_its_process_cannot_make_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="could not be created in a process of its own") as error:
        make_envs(functools.partial(only_here, os.getpid()), 2, "async")
    assert "\n" not in str(error.value)


def test_worker_processes_give_what_the_same_environments_give_here():
    results = []
    for mode in ("sync", "async"):
        envs = make_envs(functools.partial(Counting, 3, cut=True), 2, mode)
        steps = [envs.reset(0), *(envs.step(np.zeros(2, np.int64)) for _ in range(7))]
        results.append(jax.tree.leaves(steps))
        envs.close()
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.long
def test_a_worker_that_dies_is_named_and_leaves_the_checkpoint(tmp_path: Any):
    config = {"hidden": 4, "batch_size": 8, "learning_starts": 10, "n_envs": 2, "vectorization_mode": "async"}
    trainer = Trainer("awr", env="CartPole-v1", config=config, run_dir=tmp_path / "run")
    trainer.train(40, progress=False)
    vector: Any = training_envs(trainer).env
    os.kill(vector.processes[1].pid, signal.SIGKILL)
    vector.processes[1].join()
    with pytest.raises(WorkerDiedError, match=r"process that steps environments died at step 2\d"):
        trainer.train(40, progress=False)
    trainer.close()
    with Trainer.load(tmp_path / "run") as loaded:
        assert loaded.env_steps >= 40


def test_envpool_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[envpool\]' in a clone"):
        make_envs("CartPole-v1", 2, "envpool")


def test_envpool_steps_are_transitions_with_true_last_observations():
    pytest.importorskip("envpool")
    config = {"hidden": 4, "batch_size": 8, "learning_starts": 500, "n_envs": 3, "vectorization_mode": "envpool"}
    trainer = Trainer("awr", env="CartPole-v1", config=config, seed=0)
    trainer.train(300, progress=False)
    data = trainer.replay_dataset()
    assert len(data) == trainer.env_steps
    obs, next_obs, terminated = (data.columns[k][:] for k in ("observations", "next_observations", "terminals"))
    ended = terminated | data.columns["timeouts"][:]
    np.testing.assert_array_equal(next_obs[:-1][~ended[:-1]], obs[1:][~ended[:-1]])
    assert (np.abs(next_obs[terminated][:, [0, 2]]) > [2.4, 0.2]).any(axis=1).all()
    assert (np.abs(obs[np.flatnonzero(ended[:-1]) + 1]) < 0.3).all()
    assert trainer.evaluate(3)["n_episodes"] == 3


def test_envpool_starts_each_environment_by_the_seed():
    pytest.importorskip("envpool")
    first, again, other = (make_envs("CartPole-v1", 3, "envpool", seed).reset(None) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert len(np.unique(first[:, 0])) == 3


def test_envpool_names_what_it_does_not_have():
    pytest.importorskip("envpool")
    with pytest.raises(ConfigError, match=r"EnvPool has no environment 'CartPol-v1'\. Did you mean 'CartPole-v1'\?"):
        make_envs("CartPol-v1", 2, "envpool")


def test_envpool_goes_on_with_other_episodes_after_a_checkpoint(tmp_path: Any):
    pytest.importorskip("envpool")
    config = {"hidden": 4, "batch_size": 8, "learning_starts": 500, "vectorization_mode": "envpool"}
    starts = []
    with Trainer("awr", env="CartPole-v1", config=config) as trainer:
        trainer.train(30, progress=False)
        starts.append(trainer.replay_dataset().columns["observations"][:][0])
        trainer.save(tmp_path)
    with Trainer.load(tmp_path) as trainer:
        trainer.train(30, progress=False)
        starts.append(trainer.replay_dataset().columns["observations"][:][30])
    assert (starts[0] != starts[1]).all()


def test_envpool_evaluates_and_records_by_the_seed():
    pytest.importorskip("envpool")
    config = {"hidden": 4, "vectorization_mode": "envpool"}
    with Trainer("awr", env="Pendulum-v1", config=config) as trainer:
        first, again, other = (trainer.evaluate(2, seed=seed)["mean_reward"] for seed in (1, 1, 2))
    assert first == again != other
    with Trainer("awr", env="Catch-v0", config=config) as trainer:
        assert len(trainer.record(3, deterministic=True)) >= 3


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (NoSeed, r"NoSeed.reset\(\) got an unexpected keyword argument 'seed': declare it as reset\(self, \*, seed"),
        (ObservationOnly, r"reset\(\) of the environment returned a ndarray: it must return obs and info"),
    ],
)
@pytest.mark.parametrize("several", [{}, {"n_envs": 2, "vectorization_mode": "async"}], ids=["one", "processes"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_reset_that_is_not_gymnasiums_is_named(env: Any, told: str, several: dict[str, Any]):
    with (
        pytest.raises(InvalidStepError, match=told),
        Trainer("awr", env, config={"hidden": 4, **several}) as trainer,
    ):
        trainer.train(5, progress=False)
