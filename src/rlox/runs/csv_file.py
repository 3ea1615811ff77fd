"""Records as rows of a CSV file, whose columns may become more."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlox.files import whole


class CSVFile:
    """A file with a row for each record, in the columns of all of them; what a record lacks is empty.

    What could not be written is written with the next record.

    Args:
        path: the file. One that is there is continued.
        begin: the counters at which its run goes on, ``env_steps`` and ``gradient_steps``: rows that are beyond them,
            or torn, are dropped.
    """

    def __init__(self, path: Path, begin: Mapping[str, int]):
        self._path, self._begin = path, begin
        self._columns: list[str] = []
        """Those of the file, if it may be appended to as it is."""
        self._waiting: list[dict[str, float]] = []

    def add(self, record: Mapping[str, float]) -> None:
        """Append a row.

        Raises:
            OSError: it cannot be written.
        """
        self._waiting.append(dict(record))
        columns, self._columns = self._columns, []
        if self._path.exists() and all(record.keys() <= set(columns) for record in self._waiting):
            with self._path.open("a", newline="") as file:
                file.write(_text(columns, self._waiting))
        else:
            columns = self._write_anew()
        # Only now: after an error the file is read and written anew, up to the last row that was whole.
        self._columns = columns
        self._begin = {name: int(self._waiting[-1][name]) for name in self._begin}
        self._waiting.clear()

    def _write_anew(self) -> list[str]:
        """Write the rows that belong to the run and those that are waiting; returns the columns."""
        rows = self._rows()
        columns = list(dict.fromkeys(name for row in (*rows, *self._waiting) for name in row))
        with whole(self._path) as side:
            side.write_text(_text(columns, [dict(zip(columns, columns, strict=True)), *rows, *self._waiting]))
        return columns

    def _rows(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        text = self._path.read_text()
        lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
        header = lines[0] if lines else []
        rows = [dict(zip(header, line, strict=True)) for line in lines[1:] if len(line) == len(header)]
        return [row for row in rows if self._belongs(row)]

    def _belongs(self, row: Mapping[str, str]) -> bool:
        try:
            return all(float(row[name]) <= limit for name, limit in self._begin.items())
        except (LookupError, ValueError):
            return False


def _text(columns: list[str], rows: Sequence[Mapping[str, object]]) -> str:
    file = io.StringIO()
    csv.DictWriter(file, columns, restval="", lineterminator="\n").writerows(rows)
    return file.getvalue()
