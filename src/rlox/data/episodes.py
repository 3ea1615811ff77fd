"""Ids of episodes: where they change, an episode ends; they become the flags that all else reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlox.errors import DatasetError


def mark_by_ids(table: dict[str, Any], name: str, *, goes_on: bool) -> None:
    """Replace the column ``episode`` by ``terminals`` and ``timeouts``, which are True in last rows only.

    The last row of an episode is terminal if ``terminals`` says so, or where there is no such column, if ``timeouts``
    does not say that it was cut.

    Args:
        table: the columns, after ``checks.check_columns``.
        name: of the data.
        goes_on: whether the last episode continues after the last row.

    Raises:
        DatasetError: an id that is missing or comes back later, or a flag inside an episode.
    """
    ids = table.pop("episode")
    if ids.dtype.kind == "O":
        # pandas' NA is neither equal to anything nor different from it.
        ids = np.array([None if _is_missing(identity) else identity for identity in ids], object)
    _check_ids(ids, name)
    last = np.append(ids[1:] != ids[:-1], True)
    for flag in ("terminals", "timeouts"):
        inside = np.flatnonzero(table[flag] & ~last) if flag in table else []
        if len(inside):
            raise DatasetError(
                f"{name}: '{flag}' is 1 in row {inside[0]:,}, but episode {_shown(ids[inside[0]])} goes on after it: "
                "mark its last row only, or leave that column out."
            )
    last[-1] = not goes_on
    cut = table.get("timeouts", np.zeros(len(ids), bool))
    table["terminals"] = table.get("terminals", last & ~cut)
    table["timeouts"] = last & ~table["terminals"]


def _is_missing(identity: Any) -> bool:
    """Return whether an id is None, or differs from itself: not a number, not a time, pandas' NA."""
    itself = identity == identity
    return identity is None or not isinstance(itself, bool | np.bool_) or not itself


def _check_ids(ids: NDArray[Any], name: str) -> None:
    """Refuse ids that are missing, and episodes whose rows are not together."""
    first: dict[Any, int] = {}
    for row in [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist()]:
        identity = ids[row]
        if _is_missing(identity) or (isinstance(identity, str | bytes) and not identity):
            raise DatasetError(
                f"{name}: the id of the episode is missing in row {row:,}: fill it in, or drop that row."
            )
        before = first.setdefault(identity, row)
        if before != row:
            raise DatasetError(
                f"{name}: episode {_shown(identity)} begins in row {before:,}, and again in row {row:,}: sort the rows "
                "by episode, and by time within it."
            )


def _shown(identity: Any) -> str:
    text = str(identity.item() if hasattr(identity, "item") else identity)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
