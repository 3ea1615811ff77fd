"""The algorithms' updates and rounds once more, in NumPy and float64, by their definitions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from plain import (
    Net,
    Optimizer,
    Vector,
    continuous_actor,
    discrete_actor,
    folded,
    forward,
    gaussian,
    log_softmax,
    moved_moments,
    normalized_backward,
    normalized_forward,
    q_inputs,
    q_loss,
    q_value,
    value,
    value_loss,
)


class Reference:
    """What they share: the order of an update, the policy's step, the target network, and what is reported.

    Args:
        config: the algorithm's settings.
        nvec: choices of each action component; empty for continuous actions.
        actor: its parameters.
        critics: those of V, or of each Q, or of V and then each Q.
        targets: those of the target critic, where it has parameters of its own.
    """

    def __init__(self, config: Any, nvec: tuple[int, ...], actor: Net, critics: list[Net], targets: list[Net] | None):
        self.config, self.nvec, self.actor, self.critics, self.own_targets = config, nvec, actor, critics, targets
        self.actor_optimizer = Optimizer(config, config.actor_learning_rate, config.actor_decay_steps)
        self.critic_optimizer = Optimizer(config, config.critic_learning_rate)

    @property
    def targets(self) -> list[Net]:
        return self.critics if self.own_targets is None else self.own_targets

    def target(self, batch: Any, noise: Iterator[Vector]) -> Any:
        """Return what the critic regresses to."""
        raise NotImplementedError

    def losses(self, batch: Any, target: Any) -> list[tuple[float, Net]]:
        """Return each critic network's loss and gradient."""
        raise NotImplementedError

    def fitted(self, batch: Any, target: Any) -> tuple[Vector, Vector]:
        """Return the first target and what the critic says of it."""
        return target, value(self.config, self.critics[0], batch.obs)

    def advantage(self, batch: Any, target: Any, noise: Iterator[Vector]) -> Vector:
        raise NotImplementedError

    def weight(self, advantage: Vector) -> Vector:
        with np.errstate(over="ignore"):
            return np.minimum(np.exp(advantage / self.config.beta), getattr(self.config, "max_advantage", np.inf))

    def bootstrapped(self, batch: Any, next_value: Vector) -> Vector:
        return batch.reward + np.where(batch.terminated, 0.0, self.config.gamma * next_value)

    def policy_values(
        self, nets: list[Net], obs: Vector, noise: Iterator[Vector], n_samples: int
    ) -> tuple[Vector, Vector]:
        """Return the smallest Q of the policy's actions and their probabilities, ``(M, B)`` each."""
        if self.nvec:
            logits = np.split(forward(self.actor, obs)[0], np.cumsum(self.nvec)[:-1], axis=1)
            parts = [np.exp(log_softmax(part)) for part in logits]
            choices = list(itertools.product(*map(range, self.nvec)))
            actions = [np.tile(choice, (len(obs), 1)) for choice in choices]
            probability = [np.prod([p[:, i] for p, i in zip(parts, choice, strict=True)], axis=0) for choice in choices]
        else:
            mean, std, _ = gaussian(self.config, self.actor, obs)
            actions = mean + std * next(noise)
            assert actions.shape == (n_samples, *mean.shape)
            probability = np.full((n_samples, len(obs)), 1 / n_samples)
        return np.stack([self.smallest(nets, obs, action) for action in actions]), np.stack(list(probability))

    def smallest(self, nets: list[Net], obs: Vector, action: Vector) -> Vector:
        return np.min([q_value(self.config, self.nvec, net, obs, action) for net in nets], axis=0)

    def critic_step(self, losses: list[tuple[float, Net]]) -> float:
        """Move the critics, then the target critics by ``tau`` towards them; return the sum of the losses."""
        params, grads = itertools.chain(*self.critics), itertools.chain(*(grads for _, grads in losses))
        moved = iter(self.critic_optimizer.step(list(params), list(grads)))
        self.critics = [[next(moved) for _ in net] for net in self.critics]
        if self.own_targets is not None:
            self.own_targets = [
                [(1 - self.config.tau) * old + self.config.tau * new for old, new in zip(*nets, strict=True)]
                for nets in zip(self.own_targets, self.critics, strict=True)
            ]
        return sum(loss for loss, _ in losses)

    def actor_step(self, batch: Any, weight: Vector) -> dict[str, float]:
        """Move the actor; return what is reported of the policy as it was."""
        found = self.policy_loss(batch, weight)
        self.actor = self.actor_optimizer.step(self.actor, found[1])
        return {"actor/loss": found[0].mean(), **self.describe_policy(found)}

    def policy_loss(self, batch: Any, weight: Vector, near: Any = None) -> Any:
        if self.nvec:
            return discrete_actor(self.config, self.nvec, self.actor, batch, weight, near)
        return continuous_actor(self.config, self.actor, batch, weight, near)

    def describe_policy(self, found: Any) -> dict[str, float]:
        _, _, entropy, std = found
        return {"policy/entropy": entropy.mean(), **({} if std is None else {"policy/std": std.mean()})}

    def update(self, batches: list[Any], noise: list[Vector]) -> dict[str, float]:
        """Take a step of the critic for each minibatch, and one of the actor; ``noise`` in the order it is drawn."""
        drawn, batch, target, loss = iter(noise), batches[-1], None, 0.0
        variance = 0.0
        if self.critics:
            for batch in batches:
                target = self.target(batch, drawn)
                variance = explained(*self.fitted(batch, target))
                loss = self.critic_step(self.losses(batch, target))
        advantage = self.advantage(batch, target, drawn)
        weight = self.weight(advantage)
        metrics = self.actor_step(batch, weight) | describe(self.config, advantage, weight)
        if self.critics:
            metrics |= {"critic/loss": loss, "critic/explained_variance": variance}
        assert next(drawn, None) is None
        return metrics


def explained(target: Vector, predicted: Vector) -> float:
    return 1 - (target - predicted).var() / (target.var() + 1e-8)


def describe(config: Any, advantage: Vector, weight: Vector) -> dict[str, float]:
    return {
        "advantage/mean": advantage.mean(),
        "advantage/std": np.sqrt(((advantage - advantage.mean()) ** 2).mean()),
        "weight/mean": weight.mean(),
        "weight/max": weight.max(),
        "weight/effective_sample_size": weight.sum() ** 2 / (len(weight) * (weight**2).sum()),
        **clipped(config, weight),
    }


def clipped(config: Any, weight: Vector) -> dict[str, float]:
    """Return the share of clipped weights, if they are clipped at all."""
    if not hasattr(config, "max_advantage") or getattr(config, "weights", "exp") != "exp":
        return {}
    return {"weight/clipped_fraction": (weight >= config.max_advantage).mean()}


class BC(Reference):
    def advantage(self, batch: Any, target: Any, noise: Iterator[Vector]) -> Vector:
        return np.zeros(len(batch.reward))

    def weight(self, advantage: Vector) -> Vector:
        return np.ones(len(advantage))


class AWR(Reference):
    @property
    def td_lambda(self) -> float:
        return self.config.td_lambda

    def target(self, batch: Any, noise: Iterator[Vector]) -> Any:
        return self.bootstrapped(batch, value(self.config, self.targets[0], batch.next_obs))

    def losses(self, batch: Any, target: Any) -> list[tuple[float, Net]]:
        return [value_loss(self.config, self.critics[0], batch.obs, target, self.config.expectile)]

    def advantage(self, batch: Any, target: Any, noise: Iterator[Vector]) -> Vector:
        return self.scaled(target - value(self.config, self.critics[0], batch.obs))

    def scaled(self, error: Vector) -> Vector:
        return (error - error.mean()) / (error.std() + 1e-5) if self.config.normalize_advantage else error


class MARWIL(AWR):
    @property
    def td_lambda(self) -> float:
        return 1.0

    def weight(self, advantage: Vector) -> Vector:
        return np.exp(advantage / self.config.beta)

    def losses(self, batch: Any, target: Any) -> list[tuple[float, Net]]:
        return [value_loss(self.config, self.critics[0], batch.obs, target, 0.5)]

    def scaled(self, error: Vector) -> Vector:
        return error / np.sqrt((error**2).mean() + 1e-8)


class AWAC(Reference):
    def target(self, batch: Any, noise: Iterator[Vector]) -> Any:
        values, probability = self.policy_values(self.targets, batch.next_obs, noise, 1)
        return self.bootstrapped(batch, (probability * values).sum(axis=0))

    def losses(self, batch: Any, target: Any) -> list[tuple[float, Net]]:
        return [q_loss(self.config, self.nvec, net, batch.obs, batch.action, target) for net in self.critics]

    def fitted(self, batch: Any, target: Any) -> tuple[Vector, Vector]:
        values = [q_value(self.config, self.nvec, net, batch.obs, batch.action) for net in self.critics]
        return target, np.mean(values, axis=0)

    def advantage(self, batch: Any, target: Any, noise: Iterator[Vector]) -> Vector:
        values, probability = self.policy_values(self.critics, batch.obs, noise, self.config.n_action_samples)
        return self.smallest(self.critics, batch.obs, batch.action) - self.baseline(values, probability)

    def baseline(self, values: Vector, probability: Vector) -> Vector:
        return (probability * values).sum(axis=0)

    def weight(self, advantage: Vector) -> Vector:
        if self.config.weights == "softmax":
            return len(advantage) * np.exp(log_softmax(advantage[None] / self.config.beta)[0])
        return super().weight(advantage)


class CRR(AWAC):
    def baseline(self, values: Vector, probability: Vector) -> Vector:
        return values.max(axis=0) if self.config.baseline == "max" else super().baseline(values, probability)

    def weight(self, advantage: Vector) -> Vector:
        return np.where(advantage > 0, 1.0, 0.0) if self.config.weights == "binary" else super().weight(advantage)


class IQL(Reference):
    def target(self, batch: Any, noise: Iterator[Vector]) -> Any:
        next_value = value(self.config, self.critics[0], batch.next_obs)
        return self.smallest(self.targets[1:], batch.obs, batch.action), self.bootstrapped(batch, next_value)

    def losses(self, batch: Any, target: Any) -> list[tuple[float, Net]]:
        return [
            value_loss(self.config, self.critics[0], batch.obs, target[0], self.config.expectile),
            *(q_loss(self.config, self.nvec, net, batch.obs, batch.action, target[1]) for net in self.critics[1:]),
        ]

    def fitted(self, batch: Any, target: Any) -> tuple[Vector, Vector]:
        return target[0], value(self.config, self.critics[0], batch.obs)

    def advantage(self, batch: Any, target: Any, noise: Iterator[Vector]) -> Vector:
        return target[0] - value(self.config, self.critics[0], batch.obs)


class MPO(AWAC):
    """What it adapts begins where the settings say."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.log_lambda = np.log(self.config.initial_lambda)
        self.temperature = self.config.initial_lambda * (self.config.beta or 0.0)
        self.anchor = [param.copy() for param in self.actor]
        self.log_alpha = np.full(1 if self.nvec else 2, np.log(self.config.anchor_coef or 1.0))

    def target(self, batch: Any, noise: Iterator[Vector]) -> Any:
        values = self.policy_values(self.targets, batch.next_obs, noise, self.config.n_target_samples)
        return self.backup(batch, *values)

    def backup(self, batch: Any, values: Vector, probability: Vector) -> Vector:
        config = self.config
        value = (probability * values).sum(axis=0)
        if config.backup == "logsumexp":
            value = config.beta * np.log((probability * np.exp(values / config.beta)).sum(axis=0))
        if config.soft:
            value = value + self.temperature * self.entropy(self.actor, batch.next_obs)
        return self.bootstrapped(batch, value)

    @property
    def judges(self) -> list[Net]:
        """What the weights are made of."""
        return self.critics

    def entropy(self, actor: Net, obs: Vector) -> Vector:
        if self.nvec:
            parts = np.split(forward(actor, obs)[0], np.cumsum(self.nvec)[:-1], axis=1)
            return -np.sum([(np.exp(log_softmax(part)) * log_softmax(part)).sum(axis=1) for part in parts], axis=0)
        return (np.log(gaussian(self.config, actor, obs)[1]) + np.log(2 * np.pi * np.e) / 2).sum(axis=1)

    def update(self, batches: list[Any], noise: list[Vector]) -> dict[str, float]:
        drawn, batch, config, variance, loss = iter(noise), batches[-1], self.config, 0.0, 0.0
        for batch in batches:
            target = self.target(batch, drawn)
            variance = explained(*self.fitted(batch, target))
            loss = self.critic_step(self.losses(batch, target))
        batch = type(batch)(*(column[: config.n_states] for column in batch))
        now, draws = self.actor, self.actor if config.anchor_tau == 1 else self.anchor
        self.actor = draws
        action, log_prob, prior = self.candidates(batch.obs, drawn)
        entropy = self.entropy(draws, batch.obs)
        self.actor = now
        of_critics = np.min if config.q_of == "min" else np.mean
        q, q_taken = (
            np.stack([
                of_critics([q_value(config, self.nvec, net, batch.obs, one) for net in self.judges], axis=0)
                for one in actions
            ])
            for actions in (action, batch.action[None])
        )  # fmt: skip
        beta = solve_beta(q, prior, config.epsilon) if config.beta is None else config.beta
        gap = self.gap(entropy.mean(), batch.action.shape[1])
        price = min(np.exp(self.log_lambda + gap), 1.0)
        self.log_lambda = min(self.log_lambda + config.lambda_learning_rate * gap, 0.0)
        self.temperature = price * beta
        weight = softmax(np.log(prior) + q / beta - price * log_prob)
        metrics = {
            "weight/beta": beta,
            "weight/lambda": price,
            "weight/kl": divergence(q / beta, prior),
            "weight/effective_sample_size": (1 / (weight**2).sum(axis=0)).mean() / len(weight),
            "advantage/std": np.sqrt((prior * (q - (prior * q).sum(axis=0)) ** 2).sum(axis=0)).mean(),
        }
        share, advantage = config.replay_share, q_taken[0] - (prior * q).sum(axis=0)
        if share:
            seen = softmax(advantage[:, None] / beta)[:, 0] * len(advantage)
            metrics["weight/replay_effective_sample_size"] = len(seen) / (seen**2).sum()
            action = np.concatenate([action, batch.action[None]])
            weight = np.concatenate([(1 - share) * weight, share * seen[None]])
        metrics |= self.fit(batch, action, weight)
        assert next(drawn, None) is None
        return metrics | {"critic/loss": loss, "critic/explained_variance": variance}

    def gap(self, entropy: float, n: int) -> float:
        share, std = self.config.target_entropy, self.config.target_std
        if self.nvec:
            return 0.0 if share is None else (share * np.log(self.nvec).sum() - entropy) / n
        return 0.0 if std is None else np.log(std * np.sqrt(2 * np.pi * np.e)) - entropy / n

    def candidates(self, obs: Vector, noise: Iterator[Vector]) -> tuple[Vector, Vector, Vector]:
        """Return actions, the logarithm of their density, and the share that each stands for."""
        if self.nvec:
            logits = np.split(forward(self.actor, obs)[0], np.cumsum(self.nvec)[:-1], axis=1)
            parts = [log_softmax(part) for part in logits]
            choices = list(itertools.product(*map(range, self.nvec)))
            log_prob = np.stack([sum(p[:, i] for p, i in zip(parts, choice, strict=True)) for choice in choices])
            return np.stack([np.tile(choice, (len(obs), 1)) for choice in choices]), log_prob, np.exp(log_prob)
        mean, std, _ = gaussian(self.config, self.actor, obs)
        z = next(noise)
        log_prob = (-(z**2) / 2 - np.log(std) - np.log(2 * np.pi) / 2).sum(axis=-1)
        return mean + std * z, log_prob, np.full(log_prob.shape, 1 / len(z))

    def fit(self, batch: Any, action: Vector, weight: Vector) -> dict[str, float]:
        """Move the actor towards several actions in each observation, and what is adapted to keep it near its copy."""
        n, near, metrics = len(action), None, {}
        rows = batch._replace(obs=np.tile(batch.obs, (n, 1)), action=action.reshape(-1, action.shape[-1]))
        before = self.actor
        if self.config.anchor_tau < 1:
            near, apart = self.near(batch.obs)
            metrics["policy/anchor_kl"] = apart.sum()
            bounds = (self.config.epsilon_mean, self.config.epsilon_std)[: len(apart)]
            for i, bound in enumerate(bounds):
                if bound is not None:
                    self.log_alpha[i] += self.config.anchor_learning_rate * np.clip(apart[i] / bound - 1, -1, 1)
            near = *(np.tile(part, (n, 1)) for part in near[:-1]), near[-1]
        found = self.policy_loss(rows, n * weight.ravel(), near)
        self.actor = self.actor_optimizer.step(self.actor, found[1])
        tau = self.config.anchor_tau
        self.anchor = [(1 - tau) * old + tau * new for old, new in zip(self.anchor, before, strict=True)]
        return metrics | {"actor/loss": found[0].mean(), **self.describe_policy(found)}

    def near(self, obs: Vector) -> tuple[Any, Vector]:
        """Return the copy's policy with the prices of a divergence from it, and how far each part is from it."""
        prices = np.exp(self.log_alpha)
        if self.nvec:
            cuts = np.cumsum(self.nvec)[:-1]
            logits = forward(self.anchor, obs)[0]
            pairs = zip(
                np.split(logits, cuts, axis=1), np.split(forward(self.actor, obs)[0], cuts, axis=1), strict=True
            )
            kl = sum(
                (np.exp(log_softmax(old)) * (log_softmax(old) - log_softmax(new))).sum(axis=1) for old, new in pairs
            )
            return (logits, prices), np.array([np.mean(kl)])
        (old, old_std, _), (mean, std, _) = (gaussian(self.config, actor, obs) for actor in (self.anchor, self.actor))
        in_mean = ((mean - old) ** 2 / (2 * old_std**2)).sum(axis=1).mean()
        in_std = (np.log(std / old_std) + old_std**2 / (2 * std**2) - 1 / 2).sum(axis=1).mean()
        return (old, old_std, prices), np.array([in_mean, in_std])


class BatchNormMPO(MPO):
    """Both ends of a transition go through each critic as one batch, and make its target."""

    @property
    def judges(self) -> list[Net]:
        return [folded(net) for net in self.critics]

    def target(self, batch: Any, noise: Iterator[Vector]) -> Any:
        n = len(batch.obs)
        actions, probability = self.next_actions(batch.next_obs, noise)
        ends = [q_inputs(self.nvec, batch.obs, batch.action)]
        ends += [q_inputs(self.nvec, batch.next_obs, action) for action in (actions[:1] if self.nvec else actions)]
        both = np.concatenate([seen for seen, _ in ends])
        self.passes = [normalized_forward(net, both) for net in self.critics]
        values = []
        for i, action in enumerate(actions):
            place = q_inputs(self.nvec, batch.next_obs, action)[1]
            part = slice(n, None) if self.nvec else slice(n * (i + 1), n * (i + 2))
            outs = [out[part][np.arange(n), place] for out, _ in self.passes]
            values.append(self.config.value_scale * np.min(outs, axis=0))
        return self.backup(batch, np.stack(values), probability)

    def next_actions(self, obs: Vector, noise: Iterator[Vector]) -> tuple[Vector, Vector]:
        if self.nvec:
            actions, _, probability = self.candidates(obs, noise)
            return actions, probability
        mean, std, _ = gaussian(self.config, self.actor, obs)
        z = next(noise)
        return mean + std * z, np.full(z.shape[:2], 1 / len(z))

    def losses(self, batch: Any, target: Any) -> list[tuple[float, Net]]:
        found, rows = [], np.arange(len(target))
        place = q_inputs(self.nvec, batch.obs, batch.action)[1]
        for net, (out, layers) in zip(self.critics, self.passes, strict=True):
            error, grad = target / self.config.value_scale - out[rows, place], np.zeros(out.shape)
            grad[rows, place] = -2 * error / len(error)
            found.append((float((error**2).mean()), normalized_backward(net, layers, grad)))
        return found

    def fitted(self, batch: Any, target: Any) -> tuple[Vector, Vector]:
        rows, place = np.arange(len(target)), q_inputs(self.nvec, batch.obs, batch.action)[1]
        return target, self.config.value_scale * np.mean([out[rows, place] for out, _ in self.passes], axis=0)

    def critic_step(self, losses: list[tuple[float, Net]]) -> float:
        loss = super().critic_step(losses)
        self.critics = [moved_moments(net, layers) for net, (_, layers) in zip(self.critics, self.passes, strict=True)]
        return loss


def softmax(score: Vector) -> Vector:
    """Return the softmax over the first axis."""
    return np.exp(log_softmax(score.T)).T


def divergence(score: Vector, prior: Vector) -> float:
    """Return the mean KL divergence of ``softmax(log prior + score)`` from the prior."""
    log_weight = log_softmax((np.log(prior) + score).T).T
    return (np.exp(log_weight) * (log_weight - np.log(prior))).sum(axis=0).mean()


def solve_beta(q: Vector, prior: Vector, epsilon: float) -> float:
    """Return the temperature at which that divergence of ``q / beta`` is ``epsilon``, the policy mixed with uniform."""
    n = len(q)
    uniform = min((1 - np.exp(-2 * epsilon)) * n / (n - 1), 1.0)
    prior = (1 - uniform) * prior + uniform / n
    root: Any = brentq(lambda log: divergence(q / np.exp(log), prior) - epsilon, -8, 8, xtol=1e-12)
    return float(np.exp(root))


REFERENCES: dict[str, type[Reference]] = {
    "awr": AWR, "bc": BC, "marwil": MARWIL, "awac": AWAC, "crr": CRR, "iql": IQL, "mpo": MPO
}  # fmt: skip


# Rounds.


def mixed_returns(
    reward: Any, next_value: Any, terminated: Any, ended: Any, gamma: float, td_lambda: float
) -> NDArray[np.float64]:
    """Return the k-step returns of every step, mixed by (1 - lambda) lambda^(k - 1), the last one taking the rest."""
    result = np.zeros(reward.shape)
    for stream in range(reward.shape[1]):
        for start in range(len(reward)):
            total, discounted, weight = 0.0, 0.0, 1.0
            for k, t in enumerate(range(start, len(reward))):
                discounted += gamma**k * reward[t, stream]
                bootstrap = 0.0 if terminated[t, stream] else gamma ** (k + 1) * next_value[t, stream]
                last = ended[t, stream]
                total += (weight if last else weight * (1 - td_lambda)) * (discounted + bootstrap)
                weight *= td_lambda
                if last:
                    break
            result[start, stream] = total
    return result


def learn_round(
    reference: AWR, steps: Any, order: Vector, stored: Vector, critic_places: Vector, actor_places: Vector
) -> dict[str, float]:
    """Take a round on minibatches at the given places: of ``(n_critic_updates, B)``, then of ``(n_actor_updates, B)``.

    ``steps`` has one place a step, its observations whitened; ``order`` has each stream's places in order of time.
    """
    config = reference.config
    ended = (steps.terminated | steps.truncated)[order]
    ended[-1] = True

    def labels() -> Vector:
        next_value = value(config, reference.critics[0], steps.next_obs)[order]
        target = np.zeros(len(steps.reward))
        target[order] = mixed_returns(
            steps.reward[order], next_value, steps.terminated[order], ended, config.gamma, reference.td_lambda
        )
        return target

    def batch_at(places: Vector) -> Any:
        return type(steps)(*(column[places] for column in steps))

    target = labels()
    losses = [reference.critic_step(reference.losses(batch_at(places), target[places])) for places in critic_places]
    target, predicted = labels(), value(config, reference.critics[0], steps.obs)
    advantage = np.zeros(len(target))
    advantage[stored] = reference.scaled((target - predicted)[stored])
    weight = reference.weight(advantage)
    reports = [reference.actor_step(batch_at(places), weight[places]) for places in actor_places]
    return {
        **reports[-1],
        **describe(config, advantage[stored], weight[stored]),
        "actor/loss": float(np.mean([report["actor/loss"] for report in reports])),
        "critic/loss": float(np.mean(losses)),
        "critic/explained_variance": explained(target[stored], predicted[stored]),
    }
