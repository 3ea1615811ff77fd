"""Collectors: each step is learned from once, by policies that are not too old, whatever happens to who took it."""

import contextlib
import functools
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from probes import EPISODE, Numbered
from rlox import RunSpec, Trainer, train_offline_seeds
from rlox.collecting import LENGTH
from rlox.collectors import AHEAD, PATIENCE, Collectors
from rlox.core import replay as replays
from rlox.core.acting import behavior_of
from rlox.core.behavior import Behavior
from rlox.core.transition import Transition
from rlox.envs.remote import Batch, Origin, RemoteCollector, Worksite
from rlox.errors import ConfigError, InvalidStepError, WorkerDiedError
from rlox.spec import Budget


class Broken(Numbered):
    def step(self, action: Any) -> Any:
        return np.full(3, np.nan, np.float32), 0.0, False, False, {}


SITE = Worksite(Numbered, 2, "sync", None, seed=5)
SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16, "learning_starts": 40, "n_workers": 3, "n_envs": 2}
ROUNDS = {**SMALL, "rollout_steps": 48, "n_critic_updates": 2, "n_actor_updates": 3}


class LostError(Exception):
    """Of a collector that is gone."""


class TaskError(LostError):
    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


class Here:
    """Does what Ray does, in this process: calls of an actor one after another, in an order that chance decides.

    ``lose`` are numbers of calls, counted over all actors, with which an actor is lost.
    """

    def __init__(self, seed: int = 0, lose: tuple[int, ...] = (), twice: bool = False):
        self.exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=LostError)
        self.rng, self.lose, self.twice, self.puts = random.Random(seed), set(lose), twice, 0
        self.asked: list[tuple[int, int]] = []
        """Collector and version of each call."""
        self.outstanding, self.most, self.delivered = {}, 0, 0
        self.batches: list[Batch] = []
        self.limits: list[float | None] = []
        self.failed: dict[Any, TaskError] = {}

    def put(self, value: Any) -> Any:
        self.puts += 1
        return value

    def remote(self, kind: type) -> Any:
        def make(site: Worksite, number: int, incarnation: int) -> Any:
            worker = kind(site, number, incarnation)
            return SimpleNamespace(number=number, collect=SimpleNamespace(remote=self.caller(worker, number)), dead=[])

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def caller(self, worker: RemoteCollector, number: int) -> Any:
        self.outstanding[number] = 0
        alive = [True]

        def call(policy: Any, version: int, n: int) -> Any:
            self.asked.append((number, version))
            self.outstanding[number] += 1
            self.most = max(self.most, self.outstanding[number])
            return functools.partial(self.run, worker, alive, number, policy, version, n)

        return call

    def run(self, worker: RemoteCollector, alive: list[bool], number: int, *given: Any) -> Batch:
        self.delivered += 1
        if self.delivered in self.lose or not alive[0]:
            alive[0] = False
            raise LostError("killed")
        self.outstanding[number] -= 1
        try:
            batch = worker.collect(*given)
        except Exception as error:
            raise TaskError(error) from error
        if self.twice and self.batches and self.batches[-1].origin.collector == number:
            return self.batches[-1]
        self.batches.append(batch)
        return batch

    def wait(self, calls: list[Any], *, num_returns: int, timeout: float | None = None) -> Any:
        self.limits.append(timeout)
        ready = self.rng.sample(calls, self.rng.randint(1, len(calls)))
        return [call for call in calls if call in ready], []

    def get(self, call: Any) -> Batch:
        if call not in self.failed:
            try:
                return call()
            except TaskError as error:
                self.failed[call] = error
        raise self.failed[call]

    def kill(self, actor: Any) -> None:
        del self.outstanding[actor.number]


def connect(monkeypatch: pytest.MonkeyPatch, ray: Here) -> Here:
    connection = SimpleNamespace(ray=ray, close=lambda: None)
    monkeypatch.setattr("rlox.collectors.Connection", lambda n: connection)
    return ray


def own_of(trainer: Trainer) -> tuple[Transition, Any, Any]:
    """Return the replay's columns in order of time, which places are taken, and the learner."""
    learner: Any = trainer._learner
    order, stored = replays.in_order(learner.state.replay)
    steps = Transition(*(np.asarray(column)[np.asarray(order)] for column in replays.flatten(learner.state.replay)))
    return steps, np.asarray(stored).reshape(order.shape)[::-1], learner


def check_ends(trainer: Trainer) -> set[tuple[float, float]]:
    """Check that after each step comes the next of its episode, unless it is an end; returns which steps are there."""
    steps, _, learner = own_of(trainer)
    rows, found = len(steps.reward), set[tuple[float, float]]()
    for stream, n in enumerate(learner.state.replay.size):
        own, count, ended = (
            column[rows - int(n) :, stream] for column in (steps.obs[..., 0], steps.obs[..., 1], steps.truncated)
        )
        follows = (own[1:] == own[:-1]) & (count[1:] == count[:-1] + 1)
        assert (follows | ended[:-1]).all(), "what does not go on is cut"
        assert (ended == ((count + 1) % EPISODE == 0))[:-1][follows].all(), "and nothing else is"
        found |= set(zip(own.tolist(), count.tolist(), strict=True))
    return found


# A collector


def test_a_collectors_batches_follow_each_other():
    worker = RemoteCollector(SITE, number=4, incarnation=1)
    batches = [worker.collect(None, 0, 5) for _ in range(3)]
    assert [batch.origin for batch in batches] == [Origin(4, 1, i) for i in range(3)]
    steps = Transition(*(np.concatenate(column) for column in zip(*(batch.steps for batch in batches), strict=True)))
    assert steps.obs.shape == (15, 2, 3)
    goes_on = ~steps.truncated[:-1]
    np.testing.assert_array_equal(steps.obs[1:][goes_on], steps.next_obs[:-1][goes_on])
    assert np.flatnonzero(steps.truncated[:, 0]).tolist() == [6, 13]
    assert [len(batch.episodes) for batch in batches] == [0, 2, 2]
    assert all(batch.valid.all() for batch in batches)
    # Random actions differ between steps, environments, collectors, incarnations, and how far the run is.
    later = SITE._replace(env_steps=100)
    others = [
        RemoteCollector(*which).collect(None, 0, 5).steps for which in ((SITE, 4, 2), (SITE, 3, 1), (later, 4, 1))
    ]
    actions = np.concatenate([steps.action[:5], *(other.action for other in others)])
    assert len(np.unique(actions)) == actions.size
    assert len({float(taken.obs[0, 0, 2]) for taken in (steps, *others)}) == 4, "other seeds of the environments"


def test_a_collector_acts_by_the_policy_that_it_is_sent():
    trainer = Trainer("awr", Numbered, config={"hidden": 8, "actor_output_scale": 0.1, "initial_std": 0.2})
    behavior = behavior_of(trainer.state.actor, None)
    found = RemoteCollector(SITE, 0, 0).collect(behavior, 3, 200)
    assert found.version == 3
    mean, std = behavior.gaussian(behavior.outputs(found.steps.obs.reshape(-1, 3)))
    noise = (found.steps.action.reshape(-1, 1) - mean) / std
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert noise.mean() == pytest.approx(0, abs=0.15)
    assert len(np.unique(noise)) > 390


@pytest.mark.long
def test_collectors_of_envpool_have_initial_states_and_ids_of_their_own(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("envpool")
    site = Worksite("CartPole-v1", 2, "envpool", None, seed=5)
    begun = [RemoteCollector(site, *which).collect(None, 0, 1).steps.obs for which in ((0, 0), (1, 0), (0, 1))]
    assert len(np.unique(begun)) == np.size(begun)
    connect(monkeypatch, Here())
    with Trainer("awr", "Catch-v0", config={**SMALL, "vectorization_mode": "envpool"}) as trainer:
        trainer.train(30, progress=False)
        assert trainer.env_steps >= 30


def test_a_collector_needs_no_jax():
    code = "import sys; import rlox.envs.remote; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What keeps them busy


def a_policy() -> Behavior:
    return behavior_of(Trainer("awr", Numbered, config={"hidden": 8}).state.actor, None)


def test_each_has_at_most_two_calls_and_every_batch_is_taken_once(monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here(seed=1))
    collectors = Collectors(SITE, 4, length=5)
    seen: list[Origin] = []
    for turn in range(40):
        batches, lost = collectors.take()
        assert not lost
        assert ray.limits[-2:] == [PATIENCE, 0], "it comes back"
        seen += [batch.origin for batch in batches]
        assert len({batch.origin.collector for batch in batches}) == len(batches)
        if turn % 7 == 0:
            collectors.publish(a_policy())
    assert ray.most == AHEAD
    assert len(set(seen)) == len(seen)
    for number in range(4):
        assert [origin.sequence for origin in seen if origin.collector == number] == list(
            range(sum(origin.collector == number for origin in seen))
        )
    assert ray.puts == collectors.version == 6, "a policy is put once, however many collectors there are"
    assert max(version for _, version in ray.asked) == 6
    collectors.close()
    assert ray.outstanding == {}


def test_a_batch_that_comes_again_is_left_out(monkeypatch: pytest.MonkeyPatch):
    connect(monkeypatch, Here(seed=2, twice=True))
    collectors = Collectors(SITE, 1, length=5)
    seen = [batch.origin for _ in range(6) for batch in collectors.take()[0]]
    assert seen == [Origin(0, 0, 0)]


def test_the_oldest_policy_that_still_acts_is_known(monkeypatch: pytest.MonkeyPatch):
    connect(monkeypatch, Here(seed=3))
    collectors = Collectors(SITE, 2, length=5)
    assert collectors.oldest == 0
    collectors.take()
    collectors.publish(a_policy())
    assert (collectors.oldest, collectors.version) == (0, 1)
    while collectors.oldest == 0:
        assert all(batch.version <= 1 for batch in collectors.take()[0])
    assert collectors.oldest == 1


def test_one_that_is_lost_is_replaced_and_one_that_is_lost_again_and_again_is_told(monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here(seed=4, lose=(3, 9)))
    collectors = Collectors(SITE, 2, length=5)
    found = [collectors.take() for _ in range(20)]
    assert collectors.n_lost == sum(len(lost) for _, lost in found) == 2
    origins = [batch.origin for batches, _ in found for batch in batches]
    assert len(set(origins)) == len(origins)
    assert max(origin.incarnation for origin in origins) > 0
    for number, incarnation in {(origin.collector, origin.incarnation) for origin in origins}:
        own = [origin.sequence for origin in origins if origin[:2] == (number, incarnation)]
        assert own == list(range(len(own)))
    ray.lose = set(range(ray.delivered, ray.delivered + 10))
    with pytest.raises(WorkerDiedError, match=r"was lost 3 times before it had taken 5 steps \(killed\)"):
        print([collectors.take() for _ in range(10)])
    ray.lose = set()
    assert any(batches for batches, _ in (collectors.take() for _ in range(10))), "another try, once that is mended"


# A learner


@pytest.mark.long
@pytest.mark.parametrize("config", [SMALL, ROUNDS], ids=["every step", "rounds"])
@pytest.mark.parametrize("lose", [(), (4, 11)], ids=["", "lost"])
def test_every_step_that_was_delivered_is_in_the_replay_once(
    config: dict[str, Any], lose: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    ray = connect(monkeypatch, Here(seed=5, lose=lose))
    with Trainer("awr", Numbered, config=config) as trainer:
        metrics = trainer.train(1_200, log_interval=100, progress=False)
        _, stored, learner = own_of(trainer)
        taken = sum(int(batch.valid.sum()) for batch in ray.batches)
        assert learner.state.replay.size.sum() == trainer.env_steps == stored.sum() == taken >= 1_200
        assert metrics["collect/lost"] == len(lose)
        assert len(check_ends(trainer)) == taken
        if not lose:
            assert trainer.episodes == 6 * (taken // 6 // EPISODE) or trainer.episodes > 0


@pytest.mark.long
@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("config", [{**SMALL, "publish_interval": 20}, ROUNDS], ids=["every step", "rounds"])
def test_no_step_is_by_an_older_policy_than_allowed(most: int, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here(seed=6))
    with Trainer("awr", Numbered, config={**config, "max_staleness": most}) as trainer:
        learner: Any = trainer._learner
        ages: list[int] = []
        keep = learner._keep

        def kept(batches: list[Batch]) -> int:
            ages.extend(learner._collectors.version - batch.version for batch in batches)
            return keep(batches)

        monkeypatch.setattr(learner, "_keep", kept)
        metrics = trainer.train(1_200, log_interval=1_200, progress=False)
        assert max(ages) == metrics["collect/max_staleness"] <= most
        assert metrics["collect/staleness"] == pytest.approx(np.mean(ages))
        assert max(ages) > 0, "collectors do not wait for each policy"
        assert metrics["collect/version"] == learner._collectors.version == ray.puts
        if "rollout_steps" in config:
            assert trainer.gradient_steps == 3 * ray.puts
            assert ray.puts >= 1_200 // 48 - 7, "no round is left out"
        else:
            assert trainer.gradient_steps // 20 == ray.puts
            assert trainer.gradient_steps >= trainer.env_steps - 40 - 6 * AHEAD * LENGTH, "no update is left out"


@pytest.mark.long
def test_actions_are_random_until_it_learns_and_then_the_policys(monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here(seed=7))
    config = {**ROUNDS, "learning_rate": 1e-30, "learn_std": False, "initial_std": 1e-4, "actor_output_scale": 0.1}
    with Trainer("awr", Numbered, config=config) as trainer:
        trainer.train(1_500, progress=False)
        versions = [batch.version for batch in ray.batches]
        assert versions[0] == 0 < versions[-1]
        for batch in ray.batches:
            modes = trainer.predict(batch.steps.obs.reshape(-1, 3)).reshape(batch.steps.action.shape)
            near = np.abs(batch.steps.action - modes).max() < 1e-3
            assert near == (batch.version > 0)


@pytest.mark.long
def test_a_run_goes_on_from_its_checkpoint_with_other_collectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    earlier = connect(monkeypatch, Here(seed=8))
    with Trainer("awr", Numbered, config=ROUNDS, run_dir=tmp_path) as trainer:
        trainer.train(630, log_interval=100, progress=False)
        before, rounds, learner = trainer.env_steps, trainer.gradient_steps // 3, own_of(trainer)[2]
        owed = learner.state.pending
        assert 0 < owed < 48
    ray = connect(monkeypatch, Here(seed=9))
    with Trainer.load(tmp_path, env=Numbered) as trainer:
        assert trainer.env_steps == before
        trainer.train(600, log_interval=100, progress=False)
        steps, _, learner = own_of(trainer)
        assert trainer.env_steps == before + sum(int(batch.valid.sum()) for batch in ray.batches)
        assert ray.asked[0][1] == 1, "collectors begin with its policy"
        more_rounds = trainer.gradient_steps // 3 - rounds
        assert 48 * more_rounds + learner.state.pending == trainer.env_steps - before + owed, "no update is forgotten"
        rows = len(steps.reward)
        for stream in range(6):
            n = int(learner.state.replay.size[stream])
            own, ended = steps.obs[rows - n :, stream, 0], steps.truncated[rows - n :, stream]
            (change,) = np.flatnonzero(np.diff(own))
            assert ended[change], "the episode that was under way is cut"
    before_it, after = ({x for batch in each.batches for x in batch.steps.obs[..., 2].flat} for each in (earlier, ray))
    assert before_it.isdisjoint(after), "no episode begins as one before the checkpoint did"


def test_a_policy_whose_replay_was_not_kept_acts_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    connect(monkeypatch, Here(seed=13))
    with Trainer("awr", Numbered, config=ROUNDS, run_dir=tmp_path) as trainer:
        trainer.train(200, checkpoint_replay=False, progress=False)
        owed = own_of(trainer)[2].state.pending
    ray = connect(monkeypatch, Here(seed=14))
    with pytest.warns(UserWarning, match="made without its replay"):
        trainer = Trainer.load(tmp_path, env=Numbered)
    with trainer:
        trainer.train(20, progress=False)
        assert own_of(trainer)[2].state.pending == 0 < owed, "updates are owed for the steps of the replay"
    assert {version for _, version in ray.asked} == {1}


def test_a_policy_acts_after_learning_starts_though_a_minibatch_takes_longer(monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here(seed=15))
    with Trainer("awr", Numbered, config={**SMALL, "batch_size": 512}) as trainer:
        trainer.train(300, progress=False)
        assert trainer.gradient_steps == 0
    assert {version for _, version in ray.asked} == {0, 1}
    assert sum(int(batch.valid.sum()) for batch in ray.batches if batch.version == 0) < 40 + 3 * 2 * AHEAD * LENGTH


@pytest.mark.long
def test_what_was_learned_from_data_meanwhile_acts_next(monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here(seed=16))
    config = {"hidden": 8, "batch_size": 16, "learning_starts": 40, "n_workers": 3, "max_staleness": 1}
    with Trainer("awac", "Pendulum-v1", dataset="pendulum-random", config=config) as trainer:
        trainer.train(200, progress=False)
        asked, newest = len(ray.asked), ray.puts
        trainer.train_offline(5, progress=False)
        trainer.train(100, progress=False)
        assert min(version for _, version in ray.asked[asked:]) > newest
        ages = []
        for _ in range(6):
            trainer.train_offline(1, progress=False)
            ages.append(trainer.train(1, progress=False)["collect/max_staleness"])
        assert max(ages) == 1, "it is not sent while some would act by too old a one"


@pytest.mark.long
@pytest.mark.parametrize("dataset", [None, "pendulum-random"])
def test_algorithms_learn_from_collectors(dataset: str | None, monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here(seed=10))
    config = {"hidden": 8, "batch_size": 16, "learning_starts": 40, "n_workers": 2, "updates_per_step": 2}
    with Trainer("awac", "Pendulum-v1", dataset=dataset, config=config) as trainer:
        if dataset:
            trainer.train_offline(20, progress=False)
        trainer.train(300, log_interval=50, progress=False)
        late = trainer.env_steps - 300
        assert trainer.gradient_steps == pytest.approx(
            2 * (trainer.env_steps - 40) + 20 * (dataset is not None), abs=200
        )
        assert 0 <= late < 2 * LENGTH
        assert (ray.asked[0][1] == 1) == (dataset is not None), "a policy that was learned from data acts at once"


def test_an_environments_error_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch):
    connect(monkeypatch, Here())
    with Trainer("awr", Broken, config=ROUNDS) as trainer, pytest.raises(InvalidStepError, match="nan"):
        trainer.train(100, progress=False)


@pytest.mark.long
def test_what_others_have_delivered_is_kept_when_an_environment_fails(monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here(seed=11))
    step, calls = Numbered.step, itertools.count()

    def fail_once(env: Numbered, action: Any) -> Any:
        if next(calls) == 750:
            raise RuntimeError("the valve is stuck")
        return step(env, action)

    monkeypatch.setattr(Numbered, "step", fail_once)
    with Trainer("awr", Numbered, config=ROUNDS) as trainer:
        with pytest.raises(RuntimeError, match="the valve is stuck"):
            trainer.train(1_200, progress=False)
        assert trainer.env_steps == sum(int(batch.valid.sum()) for batch in ray.batches) > 0
        trainer.train(600, progress=False)
        assert trainer.env_steps == sum(int(batch.valid.sum()) for batch in ray.batches)
        assert max(batch.origin.incarnation for batch in ray.batches) == 1
        assert len(check_ends(trainer)) == trainer.env_steps, "the episode that failed is cut"


@pytest.mark.long
def test_an_evaluation_and_a_checkpoint_in_the_middle_take_no_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ray = connect(monkeypatch, Here(seed=12))
    with Trainer("awr", Numbered, config=ROUNDS, run_dir=tmp_path) as trainer:
        trainer.train(600, eval_interval=100, n_eval_episodes=1, checkpoint_interval=50, progress=False)
        assert trainer.env_steps == sum(int(batch.valid.sum()) for batch in ray.batches)


def test_what_cannot_be_collected_is_refused():
    with pytest.raises(ConfigError, match="pass an id or a callable that makes one"):
        Trainer("awr", gym.make("CartPole-v1"), config={"n_workers": 2})
    with pytest.raises(ConfigError, match=r"n_envs=1 environments each, but .* steps 3: .* one, and n_envs=3"):
        Trainer("awr", lambda: gym.make_vec("CartPole-v1", 3), config={"n_workers": 2})
    with pytest.raises(ConfigError, match="n_workers=2 collectors step theirs while it learns anyway"):
        Trainer("awr", "CartPole-v1", config={"n_workers": 2, "rollout_steps": 64, "overlap": True})
    with pytest.warns(UserWarning, match="max_staleness=5 has no effect with n_workers=0: it needs n_workers"):
        Trainer("awr", "CartPole-v1", config={"max_staleness": 5})


# On Ray


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Any]:
    """A Ray of this machine, for all tests of this file."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = pytest.importorskip("ray")
    from rlox.scale import LOCAL, _connect

    with pytest.MonkeyPatch.context() as patch:
        # Where collectors find the environments of this file.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        _connect(ray, LOCAL, 3)
        yield ray
        ray.shutdown()


def pids(name: str) -> list[int]:
    """Return the processes whose title has a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


@pytest.mark.long
def test_collectors_that_are_killed_lose_nothing_that_they_have_delivered(
    ray_here: Any, monkeypatch: pytest.MonkeyPatch
):
    with Trainer("awr", Numbered, config={**ROUNDS, "buffer_size": 60_000}) as trainer:
        learner: Any = trainer._learner
        delivered: list[Batch] = []
        keep = learner._keep

        def kept(batches: list[Batch]) -> int:
            delivered.extend(batches)
            return keep(batches)

        monkeypatch.setattr(learner, "_keep", kept)
        killed: list[int] = []
        began = time.monotonic()
        while len(killed) < 3 or trainer.env_steps < 3_000:
            assert time.monotonic() < began + 300, "it takes too long"
            trainer.train(300, log_interval=100, progress=False)
            if len(killed) < 3 and (alive := pids("RemoteCollector")):
                os.kill(alive[0], 9)
                killed.append(alive[0])
        trainer.train(600, progress=False)
        assert learner._collectors.n_lost == 3
        origins = [batch.origin for batch in delivered]
        assert len(set(origins)) == len(origins)
        assert sum(int(batch.valid.sum()) for batch in delivered) == trainer.env_steps
        assert int(learner.state.replay.size.sum()) == trainer.env_steps
        assert len({batch.steps.obs[0, 0, 0] for batch in delivered}) == 6, "three more have taken the place of three"


def test_a_ray_with_too_few_cores_is_refused(ray_here: Any):
    needs = pytest.raises(ConfigError, match="n_workers=50 needs a core each, but this Ray has 3")
    with Trainer("awr", "CartPole-v1", config={"n_workers": 50}) as trainer, needs:
        trainer.train(100, progress=False)


def test_a_ray_that_was_started_here_is_shared_and_ends_with_the_last_that_uses_it(monkeypatch: pytest.MonkeyPatch):
    from rlox import scale

    started: list[int] = []
    ray = SimpleNamespace(
        is_initialized=lambda: bool(started),
        cluster_resources=lambda: {"CPU": float(started[0])},
        shutdown=started.clear,
    )
    monkeypatch.setattr(scale, "_import_for", lambda address: ray)
    monkeypatch.setattr(scale, "_connect", lambda ray, address, n: started.append(3))
    monkeypatch.setattr(scale.Connection, "_sharing", [])
    first, second = scale.Connection(2), scale.Connection(1)
    with pytest.raises(ConfigError, match=r"n_workers=1 .* has 3, of which collectors of other trainers have 3: close"):
        scale.Connection(1)
    first.close()
    assert started, "the second has still use for it"
    third = scale.Connection(2)
    second.close()
    third.close()
    assert not started
    started.append(1)
    scale.Connection(1).close()
    assert started, "one that was there before is left as it was"


def test_that_no_core_is_free_is_told_once(monkeypatch: pytest.MonkeyPatch):
    ray = connect(monkeypatch, Here())
    monkeypatch.setattr("rlox.collectors.SILENCE", 0.0)
    monkeypatch.setattr(ray, "wait", lambda *_, **__: ([], []))
    monkeypatch.setattr(ray, "available_resources", lambda: {"memory": 1.0}, raising=False)
    collectors = Collectors(SITE, 2, length=4)
    with pytest.warns(UserWarning, match="No collector has answered in 0 s: all cores of this Ray are taken"):
        collectors.take()
    collectors.take()


@pytest.mark.long
def test_runs_that_learned_rounds_at_once_go_on_with_collectors_each(monkeypatch: pytest.MonkeyPatch):
    connect(monkeypatch, Here(seed=9))
    rng = np.random.default_rng(0)
    data = {name: rng.uniform(-1, 1, (60, n)) for name, n in (("observations", 3), ("actions", 1))}
    data |= {"rewards": rng.normal(size=60), "terminals": np.arange(60) % 6 == 5}
    spec = RunSpec.resolve("awr", config=ROUNDS, budget=Budget(gradient_steps=6))
    for trainer in train_offline_seeds(spec, [0, 1], env=Numbered, dataset=data, progress=False):
        trainer.train(60, progress=False)
        assert trainer.env_steps >= 60
        trainer.close()
