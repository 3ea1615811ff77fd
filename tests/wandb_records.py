"""Reads the files that W&B writes offline, as far as tests need it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 2**15
"""Bytes; no header of a piece spans two of them."""


class Run(NamedTuple):
    id: str
    config: dict[str, Any]
    axes: dict[str, str]
    """Pattern of metrics, and what they are over."""
    history: list[dict[str, Any]]


def runs(folder: Path) -> list[Run]:
    """Return what each offline run in a folder holds, the first one first."""
    return [_read(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime)]


def _read(path: Path) -> Run:
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    found = Run("", {}, {}, [])
    for raw in _records(path.read_bytes()):
        record = Record.FromString(raw)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
            found = found._replace(id=record.run.run_id)
        elif kind == "metric":
            found.axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "history":
            items = record.history.item
            found.history.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return found


def _records(content: bytes) -> list[bytes]:
    """Return the records of a log as LevelDB writes it, after W&B's seven bytes."""
    at, found, part = 7, [], b""
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # Whole, or the last piece.
            found.append(part)
            part = b""
    return found
