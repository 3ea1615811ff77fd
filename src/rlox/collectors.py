"""Collectors on Ray: each is sent a policy, and answers with the steps that it has taken."""

from __future__ import annotations

import collections
import math
import time
import warnings
from typing import Any, NamedTuple

from rlox.core.behavior import Behavior
from rlox.envs.remote import Batch, Origin, RemoteCollector, Worksite
from rlox.errors import WorkerDiedError, one_line
from rlox.scale import Connection

AHEAD = 2
"""Calls that a collector has at most: one that it works on, and the next."""
PATIENCE = 0.5
"""Seconds after which ``take`` comes back, so that whoever takes can stop."""
SILENCE = 30.0
"""Seconds after which it is told that no collector has answered, if no core is free."""
FUTILE = 3
"""Collectors of the same number that may be lost one after another without a batch."""


class Call(NamedTuple):
    """What a collector was asked for."""

    result: Any
    """What Ray calls its answer."""
    version: int


class Member:
    """A collector as the learner sees it."""

    def __init__(self, number: int):
        self.number, self.incarnation, self.delivered, self.futile = number, -1, 0, 0
        self.actor: Any = None
        self.calls: collections.deque[Call] = collections.deque()
        self.lost_by = ""

    def leave(self) -> None:
        """Forget the process, so that another takes its place."""
        self.actor, self.calls = None, collections.deque()


class Collectors:
    """``n`` collectors on Ray that are kept busy, and replaced if they are lost; they start when they are needed.

    Args:
        site: what they are made with.
        n: how many.
        length: steps of each environment to a batch.
    """

    def __init__(self, site: Worksite, n: int, length: int):
        self._site, self._length = site, length
        self._members = [Member(number) for number in range(n)]
        self._connection: Connection | None = None
        self._policy: Any = None
        self._failed: list[int] = []
        self.version, self.n_lost = 0, 0
        self._patient_until: float | None = None

    @property
    def oldest(self) -> int:
        """Version of the oldest policy that collectors still act by; that of the newest if they do nothing."""
        return min((call.version for member in self._members for call in member.calls), default=self.version)

    def publish(self, behavior: Behavior) -> None:
        """Let calls from now on act by a policy; those before keep theirs."""
        self._policy, self.version = self._ray.put(behavior), self.version + 1

    def take(self, *, more: bool = True) -> tuple[list[Batch], list[int]]:
        """Wait for steps, but not for long; returns at most one batch of each collector, and the numbers of those lost.

        Of a lost collector, all that it had delivered was taken before. One whose environment has failed is among the
        lost ones of the next call.

        Args:
            more: whether collectors are given new calls; without, those that are under way are waited for.

        Raises:
            ConfigError: no Ray, or one with too few cores.
            WorkerDiedError: collectors of a number are lost again and again before they deliver anything.
            Exception: an environment's own.
        """
        ray = self._ray
        self._check_futile()
        for member in self._members:
            if member.actor is None:
                self._start(member)
            if more:
                self._keep_busy(member)
        first = {member.calls[0].result: member for member in self._members if member.calls}
        ray.wait(list(first), num_returns=1, timeout=PATIENCE)
        ready, _ = ray.wait(list(first), num_returns=len(first), timeout=0)
        self._warn_of_silence(bool(ready))
        batches, lost, failed = [], self._failed, []
        self._failed = []
        for result in ready:
            member = first[result]
            try:
                batch: Batch = ray.get(result)
            except ray.exceptions.RayTaskError as error:
                failed.append((member, error.cause or error))
                continue
            except ray.exceptions.RayError as error:
                self.n_lost, member.futile, member.lost_by = self.n_lost + 1, member.futile + 1, one_line(error)
                member.leave()
                lost.append(member.number)
                continue
            member.calls.popleft()
            if batch.origin == Origin(member.number, member.incarnation, member.delivered):
                batches.append(batch)
                member.delivered, member.futile = member.delivered + 1, 0
        if failed and not batches and not lost:
            # What the others have delivered was taken before; it is told again until then.
            member, error = failed[0]
            ray.kill(member.actor)
            member.leave()
            self._failed = [member.number]
            raise error from None
        return batches, lost

    def close(self) -> None:
        """End them; what they work on is lost."""
        if self._connection is None:
            return
        for member in self._members:
            if member.actor is not None:
                self._ray.kill(member.actor)
                member.leave()
        self._connection.close()
        self._connection = None

    @property
    def _ray(self) -> Any:
        if self._connection is None:
            self._connection = Connection(len(self._members))
        return self._connection.ray

    def _check_futile(self) -> None:
        """Stop if collectors of a number are lost again and again; who then goes on has as many tries as before.

        Raises:
            WorkerDiedError: they are.
        """
        futile = [member for member in self._members if member.futile >= FUTILE]
        if not futile:
            return
        for member in self._members:
            member.futile = 0
        raise WorkerDiedError(
            f"Collector {futile[0].number} was lost {FUTILE} times before it had taken {self._length} steps "
            f"({futile[0].lost_by}): see whether the environment ends its process, or memory runs out."
        )

    def _warn_of_silence(self, answered: bool) -> None:
        """Say, once, that no collector has answered for a while since Ray has no core for them."""
        self._patient_until = time.monotonic() + SILENCE if self._patient_until is None else self._patient_until
        if answered:
            self._patient_until = math.inf
        elif time.monotonic() > self._patient_until and self._ray.available_resources().get("CPU", 0) < 1:
            self._patient_until = math.inf
            warnings.warn(
                f"No collector has answered in {SILENCE:.0f} s: all cores of this Ray are taken, as `ray status` "
                "shows. Training waits until one is free.",
                stacklevel=2,
            )

    def _start(self, member: Member) -> None:
        member.incarnation, member.delivered = member.incarnation + 1, 0
        make = self._ray.remote(RemoteCollector).options(num_cpus=1, max_restarts=0, max_task_retries=0)
        member.actor = make.remote(self._site, member.number, member.incarnation)

    def _keep_busy(self, member: Member) -> None:
        while len(member.calls) < AHEAD:
            result = member.actor.collect.remote(self._policy, self.version, self._length)
            member.calls.append(Call(result, self.version))
