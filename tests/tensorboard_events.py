"""Reads TensorBoard's event files, as far as tests need it."""

import struct
from collections import defaultdict
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of every tag in the event files of a folder."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for path in sorted(folder.glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found[value.tag].append((event.step, value.simple_value))
    return found
