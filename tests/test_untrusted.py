"""Files that lead elsewhere, run code or claim to be enormous are refused by name, before anything is allocated."""

import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces

from rlox import Dataset, memory
from rlox.cli import main
from rlox.data import columns as data_columns
from rlox.data.columns import check_memory
from rlox.envs.space_json import DEEPEST, MOST_ENTRIES, describe, restore
from rlox.errors import DatasetError, RloxError, SpaceError
from rlox.memory import available_memory

N = 6


def table(**changes: Any) -> dict[str, Any]:
    made = {
        "observations": np.arange(2.0 * N).reshape(N, 2),
        "actions": np.arange(N) % 2,
        "rewards": np.arange(N) / 2,
        "terminals": np.arange(N) == 3,
    }
    return {**made, **changes}


def box(**changes: Any) -> dict[str, Any]:
    return {"type": "Box", "shape": [3], "dtype": "float32", "low": ["-inf"], "high": ["inf"], **changes}


def whole(kind: str, **changes: Any) -> dict[str, Any]:
    return {"type": kind, "start": 0, "dtype": "int64", **changes}


def nested(depth: int) -> dict[str, Any]:
    made = box()
    for _ in range(depth):
        made = {"type": "Tuple", "spaces": [made]}
    return made


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (box(shape=[10**15]), r"claims 1e\+15 entries, but rlox reads at most 10,000,000"),
        (box(shape=[10**4] * 9), "claims 1e"),
        (box(shape=[MOST_ENTRIES + 1]), "claims 1e"),
        (whole("Discrete", n=10**18), r"claims 1e\+18"),
        (whole("MultiDiscrete", nvec=[10**18, 2], start=[0, 0]), r"claims 1e\+18"),
        (whole("MultiDiscrete", nvec=[MOST_ENTRIES] * 2, start=[0, 0]), r"claims 2e\+07"),
        ({"type": "MultiBinary", "n": [10**5] * 3}, r"claims 1e\+1"),
        ({"type": "Tuple", "spaces": [box(shape=[MOST_ENTRIES])] * 2}, r"claims 2e\+07"),
        ({"type": "Dict", "spaces": [[k, box(shape=[MOST_ENTRIES])] for k in "ab"]}, r"claims 2e\+07"),
        (nested(900), f"nested more than {DEEPEST} levels deep"),
        (nested(DEEPEST + 1), f"nested more than {DEEPEST} levels deep"),
        (box(shape=[-1]), "damaged"),
        (box(shape=3), "damaged"),
        (box(shape=[True]), "damaged"),
        (box(dtype="O"), "no type of numbers"),
        (box(dtype="f4,i4"), "no type of numbers"),
        (box(low=[float("nan")]), "a lower bound is not below"),
        (box(low=[2], high=[1]), "a lower bound is not below"),
        (box(low=[1, 2]), "damaged"),
        ({"type": "Box", "shape": [3]}, r"damaged.*KeyError"),
        (whole("Discrete", n=-(10**18)), "damaged"),
        (whole("Discrete", n=0), "damaged"),
        (whole("Discrete", n=3, dtype="float32"), "no type of numbers"),
        (whole("Discrete", n=3, start=10**30), "damaged"),
        (whole("MultiDiscrete", nvec=[2.5], start=[0]), "not whole numbers"),
        (whole("MultiDiscrete", nvec=[2], start=["a"]), "not whole numbers"),
        ({"type": "MultiBinary", "n": "3"}, "damaged"),
        ({"type": "Dict", "spaces": {"a": box()}}, "damaged"),
        ({"type": "Dict", "spaces": [[[], box()]]}, "damaged"),
        ({"type": "Bl\nob"}, r"'Bl\\nob' is not known"),
        ({"type": []}, "damaged"),
        ({}, "damaged"),
        ([], "damaged"),
        (None, "damaged"),
    ],
)
def test_a_description_that_no_space_has_is_refused_at_once(described: Any, message: str):
    began = time.perf_counter()
    with pytest.raises(SpaceError, match=message) as error:
        restore(described)
    assert time.perf_counter() - began < 0.5
    assert str(error.value).isprintable()


def test_a_description_at_the_limits_is_restored():
    assert restore(whole("Discrete", n=MOST_ENTRIES)) == spaces.Discrete(MOST_ENTRIES)
    assert describe(restore(nested(DEEPEST))) == nested(DEEPEST)


def refused(path: Path, **how: Any) -> str:
    with pytest.raises(DatasetError) as error:
        Dataset.load(path, **how)
    assert str(error.value).isprintable()
    assert path.stem in str(error.value)
    return str(error.value)


def hdf5(path: Path, change: Callable[[h5py.File], object], *without: str) -> Path:
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        for name, column in table().items():
            if name not in without:
                file[name] = column
        change(file)
    return path


def virtual(source: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((N, 2), np.float64)
        layout[:] = h5py.VirtualSource(source, "observations", (N, 2))
        file.create_virtual_dataset("observations", layout)

    return change


def link(name: str, target: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name] = target

    return change


def test_an_hdf5_file_is_not_followed_to_other_files(tmp_path: Path):
    other = str(hdf5(tmp_path / "other.h5", lambda file: None))
    (tmp_path / "secret").write_bytes(bytes(range(N)))
    path = tmp_path / "logs.h5"

    def raw(file: h5py.File) -> None:
        file.create_dataset("rewards", (N,), np.uint8, external=[(str(tmp_path / "secret"), 0, N)])

    for name in ("observations", "deep/inside"):
        hdf5(path, link(name, h5py.ExternalLink(other, "/observations")), "observations")
        assert f"'{name}' is a link to another file, which rlox does not follow" in refused(path)
    # A soft link stays inside, unless it leads through one that does not.
    hdf5(
        path,
        lambda file: (link("out", h5py.ExternalLink(other, "/"))(file), soft(file, "/out/observations")),
        "observations",
    )
    assert "'out' is a link to another file" in refused(path)
    hdf5(path, virtual(other), "observations")
    assert "the values of '/observations' are in other places or files" in refused(path)
    hdf5(path, raw, "rewards")
    assert "the values of '/rewards' are in other places or files" in refused(path)
    hdf5(path, lambda file: (link("x", np.zeros((N, 2)))(file), soft(file, "/x")), "observations")
    assert len(Dataset.load(path)) == N


def soft(file: h5py.File, target: str) -> None:
    file["observations"] = h5py.SoftLink(target)


def test_types_and_spaces_that_hdf5_files_should_not_have_are_refused(tmp_path: Path):
    def times(file: h5py.File) -> None:
        h5py.h5d.create(file.id, b"actions", h5py.h5t.UNIX_D32LE.copy(), h5py.h5s.create_simple((N,)))

    def claim(file: h5py.File) -> None:
        file.create_dataset("actions", (N, 2**28), "f4", chunks=(1, 2**20))

    path = tmp_path / "logs.h5"
    assert "No NumPy equivalent" in refused(hdf5(path, times, "actions"))
    assert "a row has at most 10,000,000 numbers" in refused(hdf5(path, claim, "actions"))
    for value, message in [
        ("{}", "is no text of fixed length"),
        (np.zeros(3), "is no text of fixed length"),
        (np.bytes_(b"\xff"), "UnicodeDecodeError"),
        (np.bytes_("[" * 100_000), "RecursionError"),
        (np.bytes_("{"), "JSONDecodeError"),
        (np.bytes_(json.dumps(whole("Discrete", n=10**18))), "claims 1e"),
        (np.bytes_(json.dumps({"type": "Dict", "spaces": []})), "Action space Dict"),
        (np.void(b" " * 9), "is no text of fixed length"),
    ]:
        assert message in refused(hdf5(path, link("action_space", value)))


def test_a_chunk_that_does_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def claim(file: h5py.File) -> None:
        file.create_dataset("actions", (N, 2), "f4", chunks=(2**20, 2), maxshape=(None, 2))

    monkeypatch.setattr(data_columns, "available_memory", lambda: 2**20)
    assert "A chunk of '/actions'" in refused(hdf5(tmp_path / "logs.h5", claim, "actions"))


def npz(path: Path, name: str, header: dict[str, Any], raw: bytes = bytes(48)) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, column in table().items():
            with archive.open(f"{key}.npy", "w") as entry:
                if key != name:
                    np.lib.format.write_array(entry, column)
        with archive.open(f"{name}.npy", "w") as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            entry.write(raw)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("descr", "shape", "by_columns", "message"),
    [
        ("<f4", (N, 2**47), False, "GiB of memory"),
        ("<f4", (N, 2**47), True, "GiB of memory"),
        ("<f4", (2**50,), False, "GiB of memory"),
        ("<f4", (N, 1000), False, "needs 24,000 bytes, but 48 are stored"),
        ("<f4", (N, 1000), True, "needs 24,000 bytes, but 48 are stored"),
        ("<f4", (-N,), False, "damaged"),
        ("<f4", (N, -2), False, "damaged"),
        ("|S0", (N,), False, "damaged"),
        ("|S0", (2**40,), False, "damaged"),
        ("|O", (N,), False, "Python objects, which rlox does not unpickle"),
        ("|O", (), False, "Python objects, which rlox does not unpickle"),
        ("|V8", (N,), False, "must hold numbers"),
    ],
)
def test_an_archive_s_header_is_not_believed(
    descr: str, shape: tuple[int, ...], by_columns: bool, message: str, tmp_path: Path
):
    header = {"descr": descr, "fortran_order": by_columns, "shape": shape}
    assert message in refused(npz(tmp_path / "logs.npz", "actions", header))


def test_an_archive_that_unpacks_to_more_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "logs.npz"
    np.savez_compressed(path, **table(observations=np.zeros((N, 2**20))))
    assert path.stat().st_size < 2**17
    monkeypatch.setattr(data_columns, "available_memory", lambda: 2**20)
    assert "needs 0.0 GiB of memory" in refused(path)


def test_text_in_an_archive_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlox.data.files.LONGEST_TEXT", 1000)
    np.savez(tmp_path / "logs.npz", **table(), action_space=np.array(" " * 1000))
    assert "'action_space' has 4,128 bytes" in refused(tmp_path / "logs.npz")


def test_missing_values_of_parquet_are_told_with_file_column_and_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlox.data.formats._BATCH", 3)
    path = tmp_path / "logs.parquet"
    lists = {name: column.tolist() for name, column in table().items()}
    for column, told in [
        ([*lists["rewards"][:4], None, 1.0], "logs: column 'rewards' has missing values, the first in row 4:"),
        ([*lists["rewards"][:4], float("nan"), 1.0], "logs: column 'rewards' holds nan in row 4"),
    ]:
        pq.write_table(pa.table({**lists, "rewards": column}), path, row_group_size=3)
        assert told in refused(path)
    rows = [[1.0, 2.0]] * 4 + [[1.0, None], [1.0, 2.0]]
    pq.write_table(pa.table({**lists, "observations": rows}), path, row_group_size=3)
    assert "logs: column 'observations' has missing values, the first in row 4, entry [1]:" in refused(path)
    assert "the first in row 3, entry [1]:" in refused(path, rows=slice(1, None))
    # What is not asked for may be missing.
    assert len(Dataset.load(path, rows=slice(0, 4))) == 4


def test_lists_whose_length_changes_between_batches_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlox.data.formats._BATCH", 3)
    lists = {name: column.tolist() for name, column in table().items()}
    pq.write_table(pa.table({**lists, "observations": [[1.0, 2.0]] * 3 + [[1.0]] * 3}), tmp_path / "logs.parquet")
    assert "logs: column 'observations' has lists of different lengths" in refused(tmp_path / "logs.parquet")


@pytest.fixture
def minari(tmp_path: Path) -> Path:
    Dataset.from_arrays(table()).save(tmp_path / "logs")
    return tmp_path / "logs"


def change(folder: Path, **changes: Any) -> Path:
    """Change entries of a Minari dataset's metadata, or remove those that are None."""
    file = folder / "data" / "metadata.json"
    changed = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
    return folder


def test_a_minari_dataset_makes_no_environment(minari: Path, tmp_path: Path):
    spec = {"id": "Any-v0", "entry_point": "os:mkdir", "kwargs": {"path": str(tmp_path / "made")}}
    spec |= {"reward_threshold": None, "nondeterministic": False, "max_episode_steps": None, "order_enforce": False}
    spec |= {"disable_env_checker": True, "additional_wrappers": [], "vector_entry_point": None}
    told = refused(change(minari, action_space=None, env_spec=json.dumps(spec)))
    assert "has no 'action_space' in its metadata.json, and rlox does not make the environment" in told
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_episodes": 10**15}, "more than its files can hold"),
        ({"total_episodes": -1}, "more than its files can hold"),
        ({"total_episodes": "2"}, "TypeError"),
        ({"total_episodes": 3}, "KeyError"),
        ({"action_space": json.dumps({**box(), "low": 0, "high": 1, "shape": [10**15]})}, "claims 1e"),
        ({"action_space": json.dumps(whole("Discrete", n=10**18))}, "claims 1e"),
        ({"observation_space": '{"type":"Tuple","subspaces":[' * 5000}, "RecursionError|JSONDecodeError"),
        ({"observation_space": "[" * 5000}, "RecursionError"),
        ({"observation_space": {}}, "has no 'observation_space'"),
        ({"data_format": "pickle"}, "KeyError"),
        ({"data_format": ["hdf5"]}, "TypeError"),
    ],
    ids=str,
)
def test_a_minari_dataset_s_metadata_are_not_believed(minari: Path, changes: dict[str, Any], message: str):
    told = refused(change(minari, **changes))
    assert any(part in told for part in message.split("|")), told


def test_a_minari_dataset_s_files_are_its_own(minari: Path, tmp_path: Path):
    data = minari / "data"
    for name in ("metadata.json", "main_data.hdf5"):
        (data / name).rename(tmp_path / name)
        (data / name).symlink_to(tmp_path / name)
        assert f"'data/{name}' is not a file of this folder, or a link that leads out" in refused(minari)
        (data / name).unlink()
        (tmp_path / name).rename(data / name)
    os.mkfifo(data / "pipe")
    assert "'data/pipe' is not a file of this folder" in refused(minari)
    (data / "pipe").unlink()
    data.rename(tmp_path / "data")
    data.symlink_to(tmp_path / "data")
    assert "'data' is not a file of this folder, or a link that leads out" in refused(minari)
    data.unlink()
    (tmp_path / "data").rename(data)
    (tmp_path / "link").symlink_to(minari)
    assert len(Dataset.load(tmp_path / "link")) == len(Dataset.load(minari))


def test_a_minari_dataset_s_values_are_its_own_and_fit_in_memory(minari: Path, tmp_path: Path):
    main_data = minari / "data" / "main_data.hdf5"
    whole = main_data.read_bytes()
    with h5py.File(main_data, "a") as file:
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/rewards")
    assert "'episode_0/rewards' is a link to another file" in refused(minari)
    main_data.write_bytes(whole)
    with h5py.File(main_data, "a") as file:
        del file["episode_0/rewards"]
        file.create_dataset("episode_0/rewards", (2**50,), "f4", chunks=(1024,))
    assert "'episode_0/rewards' of" in refused(minari)
    main_data.write_bytes(whole)
    with h5py.File(main_data, "a") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = np.zeros((1, 3))
    assert "'rewards' of episode 1 has another shape or type than before" in refused(minari)


def test_an_id_with_dots_leads_nowhere(minari: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(minari.parent / "root"))
    (minari.parent / "root").mkdir()
    minari.rename(minari.parent / "logs-v0")
    assert "the id of a Minari dataset is no such path" in refused(Path("../logs-v0"))
    assert "the id of a Minari dataset is no such path" in refused(Path("/nowhere/logs-v0"))


@pytest.mark.parametrize(
    "name", ["a\0b.npz", "a\0b-v0", "a\nb.h5", "\udcff.npz", f"{'x' * 5000}.npz", f"{'x' * 5000}-v0"]
)
def test_names_that_no_file_has_are_refused(name: str):
    with pytest.raises(DatasetError) as error:
        Dataset.load(name)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_a_pipe_is_no_data_file(suffix: str, tmp_path: Path):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    assert "is a pipe or a device" in refused(tmp_path / f"pipe{suffix}")


def test_pieces_are_small_once_they_are_encoded(monkeypatch: pytest.MonkeyPatch):
    n, choices, lengths = 2000, 100_000, []

    def encode(piece: Any, column: str, space: Any, length: int, name: str) -> None:
        lengths.append(length)

    monkeypatch.setattr("rlox.data.checks.encode", encode)
    made = {"observations": np.arange(n), "actions": np.arange(n) % 2, "rewards": np.zeros(n)}
    made["terminals"] = np.arange(n) == n - 1
    Dataset.from_arrays(made, observation_space=spaces.Discrete(choices))
    assert sum(lengths) == n
    assert 4 * choices * max(lengths) <= 2**24


def test_errors_neither_fill_a_terminal_nor_control_it():
    assert str(RloxError("a\nb\x1b[31m\udcff")) == r"a\nb\x1b[31m\udcff"
    long = str(RloxError("x" * 10_000 + "the way out."))
    assert len(long) < 3000
    assert long.endswith("the way out.")


def test_a_column_that_is_needed_itself_is_not_suggested():
    made = {"next_observations": np.zeros((N, 2)), **{k: v for k, v in table().items() if k != "observations"}}
    with pytest.raises(DatasetError) as error:
        Dataset.from_arrays(made)
    assert str(error.value).startswith("arrays has no column 'observations'. It has next_observations, actions,")
    with pytest.raises(DatasetError, match=r"Did you mean 'observation'\?"):
        Dataset.from_arrays({**made, "observation": np.zeros((N, 2))})


@pytest.mark.parametrize(
    "command", [["create", "no/logs.npz", "--env", "CartPole-v1"], ["convert", "cartpole-random", "no/logs"]]
)
def test_data_are_written_to_folders_that_exist(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["dataset", *command])
    assert "cannot be written: there is no folder 'no'." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


GIB = 2**30


@pytest.mark.parametrize(
    ("member", "files", "left"),
    [
        ("", {}, 8),
        ("0::/box", {"box/memory.max": 3 * GIB, "box/memory.current": GIB}, 2),
        ("0::/box", {"box/memory.max": "max", "box/memory.current": GIB}, 8),
        ("0::/box/in", {"box/memory.max": 3 * GIB, "box/memory.current": GIB, "box/in/memory.max": "max"}, 2),
        ("0::/", {"memory.max": 2 * GIB, "memory.current": GIB}, 1),
        ("0::/host/path", {"memory.max": 2 * GIB, "memory.current": GIB}, 1),
        ("0::/", {"memory.max": 2 * GIB, "memory.current": 3 * GIB}, 0),
        (
            "0::/",
            {
                "memory.max": 4 * GIB,
                "memory.current": 4 * GIB,
                "memory.stat": f"anon 7\ninactive_file {GIB}\nactive_file {GIB}\n",
            },
            2,
        ),
        (
            "4:cpu,memory:/box\n1:cpu:/",
            {
                "memory/box/memory.limit_in_bytes": 5 * GIB,
                "memory/box/memory.usage_in_bytes": 2 * GIB,
                "memory/box/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}\n",
            },
            4,
        ),
        ("4:memory:/", {"memory/memory.limit_in_bytes": 2**63 - 4096, "memory/memory.usage_in_bytes": GIB}, 8),
        ("4:cpu:/box", {"memory/box/memory.limit_in_bytes": GIB, "memory/box/memory.usage_in_bytes": 0}, 8),
    ],
)
def test_a_container_s_limit_of_memory_counts(
    member: str, files: dict[str, Any], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    groups, proc = tmp_path / "groups", tmp_path / "proc"
    monkeypatch.setattr(memory, "_GROUPS", groups)
    monkeypatch.setattr(memory, "_PROC", proc)
    for path, content in {
        proc / "meminfo": f"MemTotal: 1 kB\nMemAvailable:   {8 * 2**20} kB\n",
        proc / "self" / "cgroup": member,
        **{groups / name: content for name, content in files.items()},
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n" if content != "" else "")
    assert available_memory() == left * GIB
    with pytest.raises(DatasetError, match=f"{left}.0 GiB are available"):
        check_memory(left * GIB + 1, "logs")


def test_memory_that_nothing_tells_about_is_not_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert available_memory() is None
    check_memory(2**80, "logs")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x00\xff\x80", "cannot be read"),
        (b'env = "\xe9"', "cannot be read"),
        (b"x = " + b"[" * 5000, "nested too deeply"),
        (b"a." * 5000 + b"a = 1", "nested too deeply"),
        (b"seed = " + b"9" * 30, "'seed' is too large: whole numbers have 64 bits"),
        (b"seed = " + b"9" * 5000, "not valid TOML"),
        (b"hidden = [8, 0x" + b"f" * 9000 + b"]", "'hidden' is too large"),
        (b"beta = {a = " + b"9" * 30 + b"}", "'beta' is too large"),
        (b'run_dir = "a\\u0000b"', "'run_dir' holds a zero byte"),
        (b"beta = 1979-05-27", "wrong type"),
        (b"beta = 1979-02-31", "not valid TOML"),
        (b"beta = {a = 1}", "wrong type"),
        (b'"\\u001b[31m" = 1', r"'\x1b[31m' is not a setting"),
        (b"#" * 2**20 + b"\n", "more than 1,048,576 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_of_settings_is_refused_in_one_line(
    raw: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "run.toml"
    file.write_bytes(raw)
    with pytest.raises(SystemExit) as stop:
        main(["train", "awr", "--config", str(file), "--print-config"])
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in told
    assert str(file) in told
    assert told.count("\n") == 1
    assert told.strip().isprintable()
