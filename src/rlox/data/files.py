"""What all file formats share: errors while reading, optional packages, and writing to the side."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlox.errors import DatasetError, SpaceError, one_line
from rlox.files import flush


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error while a file is read into a ``DatasetError`` of one line, and silence its reader's warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DatasetError:
        raise
    except SpaceError as error:
        raise DatasetError(f"'{path}': {error}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"There is no file '{path}'.") from None
    except IsADirectoryError:
        raise DatasetError(f"'{path}' is a folder, not a {path.suffix} file.") from None
    except PermissionError:
        raise DatasetError(f"'{path}' cannot be read: permission denied.") from None
    except MemoryError:
        raise DatasetError(
            f"'{path}' does not fit in memory: load a part of it, such as Dataset.load(path, rows=slice(0, 1_000_000))."
        ) from None
    except Exception as error:  # Readers raise many types of errors on a damaged file.
        kind = f"a {path.suffix} file" if path.suffix else "a Minari dataset"
        raise DatasetError(f"'{path}' is damaged, or not {kind} ({type(error).__name__}: {one_line(error)}).") from None


LONGEST_TEXT = 2**26
"""Bytes of a text about the data, such as the description of a space, that are read."""


def check_text(size: int, what: str) -> None:
    """Refuse a text that is too long to be what it should.

    Raises:
        ValueError: more bytes than ``LONGEST_TEXT``.
    """
    if size > LONGEST_TEXT:
        raise ValueError(f"{what} has {size:,} bytes, but at most {LONGEST_TEXT:,} are read")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, and move what was written there to ``path`` if all went well.

    Raises:
        DatasetError: it cannot be written.
    """
    # Minari resolves relative paths against its own folder.
    partial = path.absolute().with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        for each in (partial, *partial.rglob("*")):
            flush(each)
        if partial.is_dir():
            partial.rename(path)
        else:
            os.link(partial, path)  # Refuses a file that another process wrote in the meantime.
        flush(path.absolute().parent)
    except DatasetError:
        raise
    except Exception as error:  # Writers raise many types of errors on names and types that they do not take.
        reason = one_line(error) or type(error).__name__
        raise DatasetError(f"'{path}' cannot be written: {reason}.") from None
    finally:
        if os.path.isdir(partial):
            shutil.rmtree(partial)
        elif os.path.exists(partial):
            partial.unlink()


def require(module: str, what: str) -> Any:
    """Return a module of the extra for data.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError:
        raise DatasetError(f"{what} needs the extra rlox[data]: pip install '.[data]' in a clone of rlox.") from None
