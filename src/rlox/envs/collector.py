"""Acts in the environments: random first steps, episode returns, and one transition after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlox.core.streams import Streams
from rlox.core.transition import Transition
from rlox.envs.envs import Envs, Step
from rlox.envs.spaces import ActionCodec, ObsEncoder
from rlox.envs.streams import Place


class Episode(NamedTuple):
    """A finished episode."""

    episode_return: float
    length: int


class EpisodeCounter:
    """Returns and lengths of the episodes of ``n`` environments so far."""

    def __init__(self, n: int):
        self.returns, self.lengths = np.zeros(n), np.zeros(n, np.int64)

    def count(self, step: Step) -> list[tuple[int, Episode]]:
        """Add a step; returns the episodes that ended with it, each after the number of its environment."""
        self.returns += step.reward * step.valid
        self.lengths += step.valid
        found = []
        for i in np.flatnonzero(step.ended):
            found.append((int(i), Episode(float(self.returns[i]), int(self.lengths[i]))))
            self.returns[i] = self.lengths[i] = 0
        return found


class Collector:
    """Where each environment stands, and its episode so far.

    ``seed`` covers the environments and the random actions. ``streams`` is where they begin; None begins the first
    episodes.
    """

    def __init__(
        self,
        envs: Envs,
        encoder: ObsEncoder,
        codec: ActionCodec,
        seed: np.random.SeedSequence,
        streams: Streams | None = None,
    ):
        self.envs, self.encoder, self.codec = envs, encoder, codec
        self._env_seed, self._action_seed = (int(s) for s in seed.generate_state(2))
        self._begin = begin_at(np.zeros(envs.n, np.int64), codec) if streams is None else streams
        self._episode, self._counter = self._begin.episode.copy(), EpisodeCounter(envs.n)
        self.obs: NDArray[Any] = np.empty(0)
        self.started = False

    def start(self) -> NDArray[np.bool_]:
        """Go to where ``streams`` says; returns whose episode could not be found again, so that a new one begins."""
        begin, n = self._begin, self.envs.n
        lost = (begin.lengths > 0) & ((begin.digest < 0) | (begin.kept != begin.lengths) | (not self.envs.numbered))
        taken = np.split(begin.actions, np.cumsum(begin.kept)[:-1])
        while True:
            self._episode = begin.episode + lost
            actions = [() if lost[i] else taken[i] for i in range(n)]
            places = [Place(self._env_seed, i, int(self._episode[i]), actions[i]) for i in range(n)]
            self.obs = self._encode(self.envs.go_to(places))
            if not self.envs.numbered:
                break
            found = np.array([trace.digest for trace in self.envs.traces()])
            differs = (begin.lengths > 0) & ~lost & (found != begin.digest)
            if not differs.any():
                break
            lost |= differs
        self._counter = EpisodeCounter(n)
        self._counter.returns[:] = np.where(lost, 0, begin.returns)
        self._counter.lengths[:] = np.where(lost, 0, begin.lengths)
        self.started = True
        return lost

    def end_episodes(self) -> None:
        """Leave the episodes that are under way; new ones begin at the next start."""
        lengths = self._counter.lengths if self.started else self._begin.lengths
        self._begin = begin_at(self._episode + (lengths > 0), self.codec)
        self._episode, self.started = self._begin.episode.copy(), False

    def streams(self) -> Streams:
        """Return where the environments are. Nothing is changed."""
        if not self.started:
            return self._begin
        n, lengths = self.envs.n, self._counter.lengths
        none = begin_at(self._episode, self.codec)
        digests, taken = none.digest, [none.actions] * n
        for i, trace in enumerate(self.envs.traces() if self.envs.numbered else ()):
            if trace.actions is None or trace.episode != self._episode[i] or not lengths[i]:
                continue
            # A step that another environment failed in is one too many.
            digests[i] = {0: trace.digest, 1: trace.digest_before}.get(len(trace.actions) - lengths[i], -1)
            taken[i] = trace.actions[: lengths[i]].astype(none.actions.dtype)
        return Streams(
            episode=self._episode.copy(),
            returns=self._counter.returns.copy(),
            lengths=lengths.copy(),
            actions=np.concatenate(taken),
            kept=np.array([len(actions) for actions in taken]),
            digest=digests,
        )

    def random_action(self, step: int) -> NDArray[Any]:
        """Return the ``(n, dim)`` uniformly random actions of an environment step, in the policy's coding."""
        return self.codec.random(np.random.default_rng([self._action_seed, step]), self.envs.n)

    def step(self, action: NDArray[Any]) -> tuple[Transition, NDArray[np.bool_], list[Episode]]:
        """Take an action of the policy's coding; returns transitions, which of them are real, and ended episodes."""
        step = self.envs.step(self.codec.decode(action))
        next_obs = self._encode(step.next_obs)
        obs = next_obs if step.obs is step.next_obs else self._encode(step.obs)
        transition = Transition(self.obs, action, step.reward, next_obs, step.terminated, step.truncated)
        self.obs = obs
        self._episode += step.ended
        return transition, step.valid, [episode for _, episode in self._counter.count(step)]

    def _encode(self, obs: Any) -> NDArray[Any]:
        with self.envs.checked():
            return self.encoder(obs, self.envs.n)


def begin_at(episode: NDArray[np.int64], codec: ActionCodec) -> Streams:
    """Return the streams that begin the numbered episodes, ``(n,)``."""
    space, none = codec.space, np.zeros_like(episode)
    return Streams(
        episode=episode,
        returns=np.zeros(len(episode)),
        lengths=none,
        actions=np.zeros((0, *(space.shape or ())), space.dtype),
        kept=none,
        digest=none - 1,
    )
