"""A run's files at an address: whole states of its folder, also where nothing can be renamed, locked or overwritten.

Every file is an object of its own with a name that was never used before. A state is one more small object, written
after them, which says which objects the folder's files are; the last state that can be read counts. Whoever goes on
with a run numbers its states above all that are there, so that a writer that was thought dead is not read any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rlox.errors import ConfigError, one_line
from rlox.files import whole
from rlox.runs.checkpoint import BEST, NAME, OLDER
from rlox.runs.logs import FINISHED, LOG, SETTINGS

STATE = "state-"
BESIDE = (SETTINGS, LOG, FINISHED)
"""Suffixes of the files beside the folder that belong to it."""
TRIES = 5
"""Looks for a state whose objects are all there, while its writer removes older ones."""
Found = tuple[int, ...]
"""What changes whenever a file does, and stays when it is renamed."""


class State(NamedTuple):
    """What a folder was, at some moment."""

    writer: int
    """Counts those who have gone on with the run."""
    number: int
    """Counts the writer's states."""
    files: dict[str, str]
    """Names of objects, by those of files; a name that begins with a point is a suffix of one beside the folder."""

    @property
    def name(self) -> str:
        """Of its own object; a later state's is after it in the alphabet."""
        return f"{STATE}{self.writer:06}-{self.number:09}.json"


class Storage:
    """The states of one run's folder.

    Args:
        address: of all runs, as fsspec has them.
        folder: of the run, here; ``LABEL/PLACE/SEED`` of its path is its name there.

    Raises:
        ConfigError: an address that is of no known kind, or whose package is missing.
    """

    def __init__(self, address: str, folder: Path):
        self._folder = folder
        self._fs, root = open_address(address)
        self._place = "/".join([root.rstrip("/"), *folder.parts[-3:]])
        self._objects: dict[Found, str] = {}
        """Objects that this writer has made, by what their files were found to be here."""
        self._here: dict[str, str] = {}
        """Objects that this reader has brought, by the names of their files."""
        self._state, self._number = State(0, 0, {}), 0
        self._old: set[str] = set()
        """What this writer may remove: its own, and what was there before it."""

    def begin(self) -> bool:
        """Make the folder the last state, as its next and only writer; returns whether there was one."""
        there, self._old = self.pull(), set(self._names())
        writers = [int(name.removeprefix(STATE).split("-")[0]) for name in self._old if name.startswith(STATE)]
        # Its first state has objects of its own: those that were there may be removed by the writer before it.
        self._state = State(max(writers, default=0) + 1, 0, {})
        return there

    def push(self) -> bool:
        """Add a state, if the folder has changed; returns whether it had.

        The run may go on meanwhile. Checkpoints are looked at first, so that the log has what they have logged.

        Raises:
            OSError: it could not be written; the states before it stay.
        """
        files: dict[str, str] = {}
        for name, file in self._files():
            with file:
                found = _found(file)
                if found not in self._objects:
                    self._objects[found] = self._write(f"{name.lstrip('.').replace('/', '-')}-{uuid.uuid4().hex}", file)
                files[name] = self._objects[found]
        if files == self._state.files:
            return False
        self._number += 1
        before, state = self._state, State(self._state.writer, self._number, files)
        self._old.add(state.name)
        with self._fs.open(f"{self._place}/{state.name}", "wb") as out:
            out.write(json.dumps(files, indent=1).encode())
        self._state = state
        if before.number:
            self._tidy({state.name, before.name, *files.values(), *before.files.values()})
        return True

    def _write(self, key: str, file: BinaryIO) -> str:
        """Write an object, or nothing; returns its name."""
        self._fs.makedirs(self._place, exist_ok=True)
        try:
            with self._fs.open(f"{self._place}/{key}", "wb") as out:
                shutil.copyfileobj(file, out)
        except BaseException:
            # Its part would take the room that the next try needs.
            with contextlib.suppress(Exception):
                self._fs.rm_file(f"{self._place}/{key}")
            raise
        self._old.add(key)
        return key

    def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> bool:
        """Bring the last state's files here; returns whether there was one.

        Args:
            wanted: says of a name whether the file is.
        """
        for _ in range(TRIES):
            names = sorted((name for name in self._names() if name.startswith(STATE)), reverse=True)
            if not names:
                return False
            if any(self._take(name, wanted) for name in names):
                return True
        raise OSError(f"no whole state of the run is in '{self._place}'")

    def _take(self, state: str, wanted: Callable[[str], bool]) -> bool:
        """Bring the files of a state here; returns False if it is torn, or has been removed."""
        try:
            files = json.loads(self._fs.cat_file(f"{self._place}/{state}"))
            for name, key in files.items():
                if wanted(name) and self._here.get(name) != key:
                    self._bring(name, key)
        except (FileNotFoundError, ValueError):
            return False
        return True

    def _bring(self, name: str, key: str) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as side, self._fs.open(f"{self._place}/{key}", "rb") as source, side.open("wb") as out:
            shutil.copyfileobj(source, out)
        self._here[name] = key

    def _path(self, name: str) -> Path:
        path = self._folder.with_suffix(name) if name.startswith(".") else self._folder / name
        if name not in BESIDE and not path.resolve().is_relative_to(self._folder.resolve()):
            raise ValueError(f"'{name}' is not in the folder")
        return path

    def _files(self) -> Iterator[tuple[str, BinaryIO]]:
        """Yield the names and the open files of the folder, checkpoints first."""
        folder, checkpoints = self._folder, (NAME, *OLDER, BEST)
        others = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        others = [name for name in others if not any(part.startswith(".") for part in name.split("/"))]
        for name in dict.fromkeys((*checkpoints, *others, *BESIDE)):
            try:
                file = self._path(name).open("rb")
            except FileNotFoundError:
                continue
            yield name, file

    def _names(self) -> list[str]:
        self._fs.invalidate_cache()
        try:
            return [str(path).rsplit("/", 1)[-1] for path in self._fs.ls(self._place, detail=False)]
        except FileNotFoundError:
            return []

    def _tidy(self, kept: Container[str]) -> None:
        """Remove what is older than the state before the last, which somebody may be reading."""
        for name in [name for name in self._old if name not in kept]:
            with contextlib.suppress(OSError):  # Another writer was faster, or we may not.
                self._fs.rm_file(f"{self._place}/{name}")
            self._old.remove(name)
        self._objects = {found: key for found, key in self._objects.items() if key in self._old}


def open_address(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        ConfigError: an address that is of no known kind, or whose package is missing.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ConfigError("A storage needs the extra rlox[ray]: pip install '.[ray]' in a clone of rlox.") from None
    try:
        fs, root = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"storage '{address}' cannot be used ({one_line(error)}): give an address such as file:///shared/runs or "
            "s3://bucket/runs."
        ) from None
    return fs, str(root)


def _found(file: BinaryIO) -> Found:
    about = os.fstat(file.fileno())
    return about.st_ino, about.st_size, about.st_mtime_ns
