"""Checkpoints of version 0.1, as those of today."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlox.errors import CheckpointError


def convert(
    file: Path, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the header of a checkpoint of version 0.1 as today's.

    Raises:
        CheckpointError: damaged, or trained on whole numbers, which version 0.1 did not scale.
    """
    if _checksum(arrays) != info["crc32"]:
        raise CheckpointError(f"Checkpoint '{file}' is damaged: its numbers do not match their checksum.")
    if _has_whole_numbers(info["observation_space"]):
        raise CheckpointError(
            f"Checkpoint '{file}' was trained by rlox 0.1 on observations of whole numbers as they are, but today they "
            "are scaled to [0, 1]: train it again."
        )
    counters, config = info["counters"], dict(info["config"])
    found = {
        ("train" + name.removeprefix("state") if name.startswith("state") else name): x for name, x in arrays.items()
    }
    rows = 0
    if "replay.size" in arrays:
        filled, n = int(arrays["replay.size"].max()), len(arrays["replay.size"])
        rows = max(counters["capacity"] // n, filled)
    found |= {
        "env_steps": np.array(counters["env_steps"]),
        "episodes": np.array(counters["episodes"]),
        "pretrained": np.array(bool(counters["pretrained"])),
        "recent": np.array(info["recent"], float).reshape(-1, 2),
        "replay_rows": np.array(rows),
    }
    sizes = [config.pop(name, ()) for name in ("hidden_sizes", "actor_hidden_sizes", "critic_hidden_sizes")]
    if sizes[1] or sizes[2]:
        raise CheckpointError(
            f"Checkpoint '{file}' has an actor and a critic of different widths, which only rlox 0.1 knew."
        )
    config["hidden"] = sizes[0] or config["hidden"]
    spec = {name: info[name] for name in ("algorithm", "env", "dataset", "preset", "seed")}
    header = {"observation_space": info["observation_space"], "action_space": info["action_space"]}
    return found, {**header, "spec": {**spec, "config": config, "budget": {}}}


def _has_whole_numbers(space: Any) -> bool:
    if space["type"] in ("Dict", "Tuple"):
        parts = [part[1] for part in space["spaces"]] if space["type"] == "Dict" else space["spaces"]
        return any(_has_whole_numbers(part) for part in parts)
    return space["type"] == "Box" and np.dtype(space["dtype"]).kind in "iub"


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(arrays[name].tobytes(), zlib.crc32(name.encode(), crc))
    return crc
