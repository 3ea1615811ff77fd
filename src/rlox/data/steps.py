"""Steps of a source: which of its columns is which, and rows of them under the names that they have here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlox.data.checks import check_finite
from rlox.data.columns import (
    OPTIONAL,
    PER_STEP,
    REQUIRED,
    Column,
    ColumnNames,
    JoinedColumns,
    Source,
    check_memory,
    row_bytes,
)
from rlox.data.csv_files import is_number
from rlox.data.sources import open_source
from rlox.errors import DatasetError, did_you_mean

ALIASES = {
    "terminals": ("terminations",),
    # d3rlpy's also marks terminal states, which count as such.
    "timeouts": ("truncations", "episode_terminals"),
    "action_log_probs": ("infos/action_log_probs",),
    "episode": ("episode_id",),
}


_ENDS = ("terminals", "timeouts", "episode")


def take(source: Source, theirs: Mapping[str, str | list[str]], rows: slice, name: str) -> dict[str, Column]:
    """Return rows of columns under the names they have here.

    Args:
        source: what has them.
        theirs: what ``resolve`` returned.
        rows: which of them.
        name: what errors call the source.

    Raises:
        DatasetError: a column is not of numbers, or holds one that is not finite; columns to be put side by side differ
            in length.
    """
    numbers = {ours: parts for ours, parts in theirs.items() if ours != "episode"}
    wanted = dict.fromkeys(part for parts in numbers.values() for part in _as_list(parts))
    read = source.read(list(wanted), rows) if wanted else {}
    for key, column in read.items():
        _check_numbers(column, key, name, choice=key in _as_list(theirs.get("actions", ())))
    for ours, parts in numbers.items():
        for part in _as_list(parts):
            column = read[part]
            # Later, what is not finite would be said of our names. Flags and ids have checks of their own.
            if part != ours and ours not in _ENDS and isinstance(column, np.ndarray):
                check_finite(column, part, 0, name)
    table: dict[str, Column] = {}
    if "episode" in theirs:
        table["episode"] = _ids(source, theirs["episode"], rows, name)
    for ours, parts in numbers.items():
        if isinstance(parts, str):
            table[ours] = read[parts]
            continue
        lengths = {part: (read[part].shape or (0,))[0] for part in parts}
        if len(set(lengths.values())) > 1:
            raise DatasetError(f"{name}: the columns of '{ours}' differ in length: {lengths}.")
        joined = JoinedColumns([read[part] for part in parts])
        if all(isinstance(part, np.ndarray) for part in joined.parts):
            check_memory(len(joined) * row_bytes([joined]), name)
            table[ours] = joined[:]
        else:
            table[ours] = joined
    return table


def _ids(source: Source, theirs: str | list[str], rows: slice, name: str) -> Column:
    """Return ids of episodes, which may be text, also if the same column holds numbers of the steps."""
    if not isinstance(theirs, str):
        raise DatasetError(f"{name}: an id of the episode is one column, not {len(theirs)}: {', '.join(theirs)}.")
    ids = source.read_ids(theirs, rows) if source.read_ids else source.read([theirs], rows)[theirs]
    if ids.dtype.kind == "O" and not isinstance(ids, np.ndarray):
        # HDF5 can read text of variable length forever if the file is damaged.
        raise DatasetError(
            f"{name}: column '{theirs}' holds text of variable length, which is not read: write ids of episodes as "
            "numbers, or as text of a fixed length, such as numpy.array(ids, 'S')."
        )
    return ids


def _as_list(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _check_numbers(column: Column, key: str, name: str, *, choice: bool) -> None:
    if column.dtype.kind in "fiub":
        return
    held, way_out = f"values of type {column.dtype}", "convert it to numbers, or leave it out"
    if column.dtype.kind in "Mm":
        held, way_out = "times", "convert it to numbers, such as seconds since the episode began, or leave it out"
    elif column.dtype.kind == "U" and column.shape and (found := _first_text(column[:])):
        held = found
        way_out = "correct it (numbers are like 1234.5), drop that episode, or leave the column out"
        if choice:
            way_out = "count choices from 0, and write amounts like 1234.5"
    elif column.dtype.kind in "USO":
        held = "text or Python objects"
    raise DatasetError(f"{name}: column '{key}' holds {held}, but it must hold numbers: {way_out}.")


def _first_text(column: NDArray[Any]) -> str | None:
    """Return the first value of a column of text that is no number, and its row."""
    for row, text in enumerate(column.ravel().tolist()):
        if not is_number(text):
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            return f"{shown!r} in row {row:,}" if text.strip() else f"no value in row {row:,}"
    return None


def check_rows(rows: Any) -> slice:
    """Return a slice of steps.

    Raises:
        DatasetError: it is something else, or has a stride.
    """
    if isinstance(rows, slice) and rows.step in (None, 1):
        bounds = (rows.start, rows.stop)
        if all(bound is None or isinstance(bound, int | np.integer) for bound in bounds):
            return rows
    raise DatasetError(f"rows={rows!r} must be a slice of steps without a stride, such as slice(0, 1_000_000).")


def starts_inside(source: Source, theirs: Mapping[str, str | list[str]], rows: slice, name: str) -> bool:
    """Return whether the first of the rows is inside an episode that began before it."""
    if not rows.start:
        return False
    if "episode" in theirs:
        return _same_episode(source, theirs, rows.start, name)
    flags = {key: theirs[key] for key in ("terminals", "timeouts") if key in theirs}
    before = take(source, flags, slice(rows.start - 1, rows.start), name)
    # Counted from the end, there may be no row before.
    return len(before["terminals"]) > 0 and not any(flag[:].any() for flag in before.values())


def goes_on(source: Source, theirs: Mapping[str, str | list[str]], rows: slice, name: str) -> bool:
    """Return whether the row after the last of the rows has the same id of an episode."""
    return "episode" in theirs and bool(rows.stop) and _same_episode(source, theirs, rows.stop, name)


def _same_episode(source: Source, theirs: Mapping[str, str | list[str]], at: int, name: str) -> bool:
    """Return whether row ``at`` and the row before it have the same id."""
    pair = take(source, {"episode": theirs["episode"]}, slice(at - 1, at + 1 or None), name)["episode"][:]
    return len(pair) == 2 and bool(pair[0] == pair[1])


def resolve(names: Iterable[str], chosen: ColumnNames, name: str) -> dict[str, str | list[str]]:
    """Return what each column is called among ``names``: one of them, or several in order.

    Raises:
        DatasetError: a column that is required, or was chosen, is missing.
    """
    known = list(names)
    found: dict[str, str | list[str]] = {}
    missing: list[str] = []
    for ours, theirs in chosen.items():
        first, slash, _ = ours.partition("/")
        if first not in (*REQUIRED, *OPTIONAL):
            raise DatasetError(
                f"columns: a dataset has no column '{ours}'.{did_you_mean(first, (*REQUIRED, *OPTIONAL))}"
            )
        if slash and not first.endswith("observations"):
            raise DatasetError(f"columns: '{first}' is a single column, without parts such as '{ours}'.")
        if not theirs:
            raise DatasetError(f"columns: '{ours}' is a list of no names.")
        missing += [wanted for wanted in _as_list(theirs) if wanted not in known]
        found[ours] = theirs if isinstance(theirs, str) else list(theirs)
    given = {ours.partition("/")[0] for ours in chosen}
    for wanted in (*REQUIRED, *OPTIONAL):
        # Both flags say more than an id; terminals alone do not say where the other episodes end.
        if wanted not in given and not (wanted == "episode" and {"terminals", "timeouts"} <= found.keys()):
            found |= _named(wanted, known)
    for wanted in REQUIRED:
        if wanted == "terminals" and "episode" in found:
            continue
        if not any(ours.partition("/")[0] == wanted for ours in found):
            missing.append(wanted)
    if missing:
        raise _missing(missing, known, found, name)
    for ours in found:
        if any(other.startswith(f"{ours}/") for other in found):
            raise DatasetError(f"{name}: '{ours}' is a column, and there are columns '{ours}/...' as well: keep one.")
    return found


def _named(wanted: str, known: list[str]) -> dict[str, str | list[str]]:
    """Return the columns that are ``wanted`` by their names: one, numbered ones, or those of a Dict."""
    for candidate in (wanted, *ALIASES.get(wanted, ())):
        if candidate in known:
            return {wanted: candidate}
    if wanted in PER_STEP:
        return {}
    numbered = [(int(match[1]), x) for x in known if (match := re.fullmatch(rf"{wanted}[._](\d+)", x))]
    if numbered:
        return {wanted: [x for _, x in sorted(numbered)]}
    if wanted == "actions":
        return {}
    return {x: x for x in known if x.startswith(f"{wanted}/")}


def _missing(wanted: list[str], known: list[str], found: Mapping[str, str | list[str]], name: str) -> DatasetError:
    one_flag = next((flag for flag in ("dones", "done") if flag in known), None)
    way_out = ""
    if "terminals" in wanted:
        way_out = (
            " Ends of episodes are marked by flags, or by a column with an id of the episode (episode=, --episode)."
        )
    if "terminals" in wanted and one_flag:
        way_out = (
            f" '{one_flag}' does not say whether an episode terminated or was truncated: give 'terminals' (the state "
            "is terminal) and 'timeouts' (the episode was truncated)."
        )
    used = {part for parts in found.values() for part in _as_list(parts)}
    near = did_you_mean(wanted[0], set(known) - used)
    if len(wanted) == 1 and (near or way_out):
        return DatasetError(f"{name} has no column '{wanted[0]}'.{near}{way_out}")
    several = ", ".join(f"'{column}'" for column in wanted[:-1])
    missing = f"columns {several} and '{wanted[-1]}'" if several else f"column '{wanted[0]}'"
    there = f" It has {', '.join(known[:40])}{', ...' if len(known) > 40 else ''}: " if known else " "
    return DatasetError(
        f"{name} has no {missing}.{there}say which is which, such as columns={{'observations': ['x', 'v']}} "
        f"(--observations x v).{way_out}"
    )


def check_names(path: str | Path, columns: ColumnNames) -> None:
    """Refuse data whose columns are not there, without a look at their rows.

    Raises:
        DatasetError: there are no such data, or a column is missing.
    """
    resolve(open_source(path).names, columns, Path(path).stem)
