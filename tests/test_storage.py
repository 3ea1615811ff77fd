"""States of a run's folder at an address: whole ones only, one writer that counts, nothing overwritten."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest

from disk import full
from rlox.errors import ConfigError
from rlox.runs.storage import State, Storage, open_address

fsspec = pytest.importorskip("fsspec")

RUN = Path("awr") / "CartPole-v1" / "0"


@pytest.fixture(params=["file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/kept" if request.param == "file" else f"memory://{uuid.uuid4().hex}"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        side = folder / f".side.{name}"
        side.write_text(text)
        side.replace(folder / name.replace("_", "."))


def names(address: str) -> list[str]:
    fs, root = open_address(address)
    return sorted(str(path).rsplit("/", 1)[-1] for path in fs.find(root))


def contents(folder: Path) -> dict[str, str]:
    """What a folder's files, and those beside it, hold."""
    there = [path for path in folder.parent.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder.parent).as_posix(): path.read_text() for path in there}


def test_a_folder_that_is_kept_comes_back_elsewhere(address: str, tmp_path: Path):
    here, there = tmp_path / "a" / RUN, tmp_path / "b" / RUN
    write(here, checkpoint_safetensors="new", metrics_jsonl="1\n2\n")
    write(here / "offline", events="e")
    here.with_suffix(".finished").touch()
    (here / ".lock").touch()
    writer = Storage(address, here)
    assert not writer.begin()
    assert writer.push()
    assert not writer.push(), "nothing has changed"
    assert Storage(address, there).pull()
    assert contents(there) == contents(here)
    assert set(contents(there)) == {"0/checkpoint.safetensors", "0/metrics.jsonl", "0/offline/events", "0.finished"}
    assert not (there / ".lock").exists()
    assert not Storage(address, tmp_path / "c" / RUN.with_name("1")).pull()


def test_only_what_changed_is_written_and_what_is_old_is_removed(address: str, tmp_path: Path):
    here = tmp_path / "a" / RUN
    write(here, checkpoint_safetensors="1", metrics_jsonl="1\n")
    writer = Storage(address, here)
    writer.begin()
    writer.push()
    first = names(address)
    (here / "checkpoint.safetensors").replace(here / "checkpoint.1.safetensors")
    write(here, checkpoint_safetensors="2")
    writer.push()
    # A new checkpoint and a new state: the file that was renamed, and the log, are objects already.
    assert len(set(names(address)) - set(first)) == 2
    for i in range(5):
        write(here, metrics_jsonl=f"{i}\n")
        writer.push()
    # The last two states, with two logs and what both have.
    assert len(names(address)) == 2 + 2 + 2
    reader = Storage(address, tmp_path / "b" / RUN)
    reader.pull()
    assert contents(tmp_path / "b" / RUN) == contents(here)


def test_a_state_that_is_torn_does_not_count(address: str, tmp_path: Path):
    here, there = tmp_path / "a" / RUN, tmp_path / "b" / RUN
    writer = Storage(address, here)
    for text in ("1", "2"):
        write(here, metrics_jsonl=text)
        writer.push()
    fs, root = open_address(address)
    place = f"{root}/{RUN.as_posix()}"
    fs.pipe_file(f"{place}/{State(9, 9, {}).name}", b'{"metrics.jsonl": "met')
    Storage(address, there).pull()
    assert (there / "metrics.jsonl").read_text() == "2"
    fs.pipe_file(f"{place}/{State(9, 10, {}).name}", json.dumps({"metrics.jsonl": "gone"}).encode())
    Storage(address, there).pull()
    assert (there / "metrics.jsonl").read_text() == "2"


def test_a_state_never_reaches_out_of_its_folder(address: str, tmp_path: Path):
    there = tmp_path / "b" / RUN
    fs, root = open_address(address)
    place = f"{root}/{RUN.as_posix()}"
    fs.makedirs(place, exist_ok=True)
    fs.pipe_file(f"{place}/key", b"evil")
    for name in ("../../escaped", str(tmp_path / "escaped"), "../0.toml"):
        fs.pipe_file(f"{place}/{State(1, 1, {}).name}", json.dumps({name: "key"}).encode())
        with pytest.raises(OSError, match="no whole state"):
            Storage(address, there).pull()
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path.read_bytes() == b"evil" and "kept" not in path.parts
    ]


def test_a_writer_that_was_thought_dead_is_not_read_any_more(address: str, tmp_path: Path):
    old, new, there = (tmp_path / name / RUN for name in "abc")
    write(old, metrics_jsonl="1")
    first = Storage(address, old)
    first.begin()
    first.push()
    second = Storage(address, new)
    assert second.begin()
    write(new, metrics_jsonl="1 2")
    second.push()
    for i in range(3):
        write(old, metrics_jsonl=f"zombie {i}")
        first.push()
    Storage(address, there).pull()
    assert (there / "metrics.jsonl").read_text() == "1 2"
    third = Storage(address, there)
    third.begin()
    write(there, metrics_jsonl="1 2 3")
    third.push()
    reader = Storage(address, tmp_path / "d" / RUN)
    reader.pull()
    assert (tmp_path / "d" / RUN / "metrics.jsonl").read_text() == "1 2 3"


def test_a_reader_that_is_overtaken_looks_again(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here, there = tmp_path / "a" / RUN, tmp_path / "b" / RUN
    writer, reader = Storage(address, here), Storage(address, there)
    write(here, metrics_jsonl="0")
    writer.push()
    look, turns = reader._names, iter(range(3))

    def names_that_are_gone() -> list[str]:
        found = look()
        if (turn := next(turns, None)) is not None:
            for i in range(3):
                write(here, metrics_jsonl=f"{turn} {i}")
                writer.push()
        return found

    monkeypatch.setattr(reader, "_names", names_that_are_gone)
    assert reader.pull()
    assert (there / "metrics.jsonl").read_text() == "2 2"


def test_a_part_of_a_state_can_be_read(address: str, tmp_path: Path):
    here, there = tmp_path / "a" / RUN, tmp_path / "b" / RUN
    write(here, checkpoint_safetensors="big", metrics_jsonl="1")
    Storage(address, here).push()
    Storage(address, there).pull(lambda name: name == "metrics.jsonl")
    assert list(contents(there)) == ["0/metrics.jsonl"]


@pytest.mark.parametrize("part", ["metrics", "state"])
def test_a_disk_that_is_full_leaves_the_state_before(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address, here, there = f"file://{tmp_path}/kept", tmp_path / "a" / RUN, tmp_path / "b" / RUN
    writer = Storage(address, here)
    write(here, checkpoint_safetensors="1", metrics_jsonl="1")
    writer.push()
    write(here, checkpoint_safetensors="2", metrics_jsonl="1 2")
    opened = writer._fs.open

    def full(path: str, mode: str) -> object:
        if f"/{part}" in path:
            raise OSError(28, os.strerror(28))
        return opened(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(writer._fs, "open", full)
        with pytest.raises(OSError, match="No space"):
            writer.push()
    Storage(address, there).pull()
    assert contents(there) == {"0/checkpoint.safetensors": "1", "0/metrics.jsonl": "1"}
    assert writer.push()
    Storage(address, there).pull()
    assert contents(there) == contents(here)


def test_a_part_of_an_object_does_not_take_the_room_of_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = tmp_path / "a" / RUN
    writer = Storage(f"file://{tmp_path}/kept", here)
    write(here, checkpoint_safetensors="x" * 5000, metrics_jsonl="1")
    with full(1000), pytest.raises(OSError, match="too large"):
        writer.push()
    kept = [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in kept) < 100
    assert writer.push()


def test_what_may_not_be_removed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address, here, there = f"file://{tmp_path}/kept", tmp_path / "a" / RUN, tmp_path / "b" / RUN
    writer = Storage(address, here)

    def refuse(path: str) -> None:
        raise PermissionError(13, os.strerror(13), path)

    monkeypatch.setattr(writer._fs, "rm_file", refuse)
    for text in ("1", "1 2", "1 2 3"):
        write(here, metrics_jsonl=text)
        assert writer.push()
    Storage(address, there).pull()
    assert contents(there) == contents(here)
    assert len(names(address)) == 6


@pytest.mark.parametrize("address", ["nosuch://bucket/x", "hdf5+x://y"])
def test_an_address_of_no_known_kind_is_one_line(address: str):
    with pytest.raises(ConfigError, match=r"cannot be used .*give an address such as"):
        open_address(address)
