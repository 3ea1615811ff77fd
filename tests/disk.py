"""A disk that is full, or almost."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full(room: int = 500) -> Iterator[None]:
    """Let no file grow beyond so many bytes, here and in the programs that are started."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
