"""What the commands print of a policy."""

from __future__ import annotations

FEW = 0.05
"""An effective sample size below this share of the episodes is too small to trust the estimate."""


def describe_algorithm(config: type) -> str:
    """Return what the first line of a config's docstring says of its algorithm."""
    told = (config.__doc__ or "").partition("\n")[0].removeprefix("Settings of ")
    return told[:1].upper() + told[1:]


def print_evaluation(result: dict[str, float], env_id: str | None) -> None:
    """Print the returns of episodes, and their score where there are bundled data of the environment."""
    from rlox.data.bundled import reference_of

    n = result["n_episodes"]
    print(
        f"Evaluation over {n:.0f} episode{'s' if n > 1 else ''}: mean {result['mean_reward']:.1f}, "
        f"std {result['std_reward']:.1f}, min {result['min_reward']:.1f}, max {result['max_reward']:.1f}, "
        f"mean length {result['mean_length']:.1f}"
    )
    if ends := reference_of(env_id):
        score, known = ends.score(result["mean_reward"]), f"(0: random actions, {ends.random}; 100: the bundled expert,"
        print(f"Normalised score: {score:.1f} {known} {ends.expert})")


def print_estimates(found: dict[str, float]) -> None:
    """Print what data say of a policy."""

    def line(what: str, name: str, note: str) -> None:
        interval = f"(95% interval {found[f'{name}/low']:.2f} to {found[f'{name}/high']:.2f})"
        print(f"{what:28} {found[f'{name}/value']:.2f} {interval}{note}")

    print("Discounted returns from the data's first states:")
    line("  fitted Q evaluation", "fqe", "")
    if "wis/value" in found:
        share = found["wis/effective_sample_size"]
        few = ", too few to trust" if share < FEW else ""
        line("  importance sampling", "wis", f", effective sample size {share:.1%} of the episodes{few}")
    print(f"{'  the data themselves':28} {found['data/value']:.2f}")
    distance = found["behavior/action_distance"]
    print(f"Distance of the policy's actions from the data's: {distance:.3f}")
    if "weight/effective_sample_size" in found:  # Not if the policy is fitted to actions of its own.
        print(f"Share of the data that its weights use: {found['weight/effective_sample_size']:.1%}")
