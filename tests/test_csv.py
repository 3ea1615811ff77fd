"""CSV files: what their values are taken for, and what is refused."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlox import Dataset
from rlox.data import columns as data_columns
from rlox.data.csv_files import open_csv
from rlox.errors import DatasetError

LOGS = """time,x,v,valve,failed,reward,batch
2020-01-01 00:00,0.5,1,0,false,1,b7
2020-01-01 00:01,1e-3,2,1,False,0.5,b7
2020-01-01 00:00,-2,3,1,TRUE,0,"a, 1"
2020-01-01 00:00,4,3,0,false,2,c
2020-01-01 00:01,5,3,0,false,-2,c
"""
NAMES = {"observations": ["x", "v"], "actions": "valve", "rewards": "reward"}


def written(folder: Path, text: str, name: str = "logs.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_values_are_of_the_simplest_type_that_all_have(tmp_path: Path):
    source = open_csv(written(tmp_path, LOGS))
    assert source.names == ["time", "x", "v", "valve", "failed", "reward", "batch"]
    read = source.read(source.names, slice(None))
    assert [read[name].dtype.kind for name in source.names] == ["U", "f", "i", "i", "b", "f", "U"]
    assert read["x"][:].tolist() == [0.5, 1e-3, -2, 4, 5]
    assert read["failed"][:].tolist() == [False, False, True, False, False]
    assert read["batch"][:].tolist() == ["b7", "b7", "a, 1", "c", "c"]


def test_a_file_gives_the_steps_of_the_same_frame(tmp_path: Path):
    path = written(tmp_path, LOGS)
    expected = Dataset.from_frame(pd.read_csv(path), NAMES, episode="batch")
    with gzip.open(tmp_path / "logs.csv.gz", "wt") as file:
        file.write(LOGS)
    other = written(tmp_path, "\ufeff" + LOGS.replace('"a, 1"', "a1").replace(",", ";").replace("\n", "\r\n"), "b.csv")
    assert open_csv(other).names == open_csv(path).names, "the mark of UTF-8 is no part of a name"
    for found in (
        Dataset.load(path, columns=NAMES, episode="batch"),
        Dataset.load(tmp_path / "logs.csv.gz", columns=NAMES, episode="batch"),
        Dataset.load(other, columns=NAMES, episode="batch"),
    ):
        for one, two in zip(found.transitions(), expected.transitions(), strict=True):
            np.testing.assert_array_equal(one, two)
        assert found.action_space == expected.action_space
    flagged = Dataset.load(path, columns={**NAMES, "terminals": "failed"}, episode="batch")
    assert flagged.columns["timeouts"][:].tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("rows", [slice(1, 4), slice(None, 3), slice(-4, -1), slice(-2, None), slice(3, 99)])
def test_rows_are_those_of_the_frame(rows: slice, tmp_path: Path):
    path = written(tmp_path, LOGS)
    source, frame = open_csv(path), pd.read_csv(path)
    np.testing.assert_array_equal(source.read(["x"], rows)["x"][:], frame["x"].to_numpy()[rows])


def test_batches_of_different_types_are_one_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlox.data.csv_files._BATCH", 2)
    path = written(tmp_path, "a,b,c,d\n1,1,true,x\n2,2,false,y\n3,0.5,1,7\n\n4,3,0,8\n\n")
    read = open_csv(path).read(["a", "b", "c", "d"], slice(None))
    assert read["a"][:].tolist() == [1, 2, 3, 4]
    assert read["a"].dtype == np.int64
    assert read["b"][:].tolist() == [1, 2, 0.5, 3]
    assert read["d"][:].tolist() == ["x", "y", "7", "8"]
    assert read["c"].dtype.kind == "U"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            LOGS.replace("1e-3", "n/a"),
            r"logs: column 'x' holds 'n/a' in row 1, but it must hold numbers: correct it \(numbers are like",
        ),
        (LOGS.replace("1e-3", ""), "logs: column 'x' holds no value in row 1"),
        (LOGS.replace("1e-3", "nan"), r"logs: column 'x' holds nan in row 1: every number must be finite"),
        (LOGS.replace("false,2,c", "false,inf,c"), r"logs: column 'reward' holds inf in row 3: every number"),
        (LOGS.replace("1e-3,2", "1e-3"), "row 1 has 6 values, but there are 7 columns"),
        (LOGS.partition("\n")[2].replace("b7", "7"), "has two columns '1': rename"),
        ("1,2,3\n4,5,6\n", "has no header: its first line must name the columns"),
        ("", "has no header"),
        (LOGS.replace(",1,b7", ",up,b7"), "'reward' holds 'up' in row 0, .* drop that episode"),
        (LOGS.replace("1,TRUE", "open,TRUE"), "'valve' holds 'open' in row 2, .* count choices from 0, and write"),
        (LOGS.replace("reward", "gain"), r"logs has no column 'reward'\. (Did you mean|Known: )"),
        (LOGS.replace("time", "x"), "has two columns 'x': rename one of them"),
        (LOGS.partition("\n")[0], "logs has no steps"),
        (LOGS.replace(",c\n", ",\n"), "the id of the episode is missing in row 3"),
        (LOGS.replace("-2,3", "-2,99999999999999999999999"), None),
    ],
)
def test_what_is_no_table_of_numbers_is_refused_in_one_line(text: str, message: str | None, tmp_path: Path):
    path = written(tmp_path, text)
    if message is None:
        assert Dataset.load(path, columns=NAMES, episode="batch").columns["observations"][2:3].max() > 9e22
        return
    with pytest.raises(DatasetError, match=message) as error:
        Dataset.load(path, columns=NAMES, episode="batch")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("raw", [b"x,y\n1,\xff\n", b"\x1f\x8b not gzip", b"x,y\n1,\x00\n", bytes(range(256)) * 40])
def test_a_damaged_file_is_refused_in_one_line(raw: bytes, tmp_path: Path):
    for name in ("a.csv", "a.csv.gz"):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DatasetError) as error:
            Dataset.load(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(DatasetError, match=r"There is no file '.*b\.csv'\. Did you mean 'a\.csv'\?"):
        Dataset.load(tmp_path / "b.csv")
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "a.csv").write_text("x,Zähler\n1,2\n", encoding=encoding)
        with pytest.raises(DatasetError, match="is not UTF-8 text, since it has the byte 0x"):
            Dataset.load(tmp_path / "a.csv")


def test_long_text_is_counted_before_it_is_made_an_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = "".join(f"{i},b\n" for i in range(1000))
    path = written(tmp_path, f"x,batch\n0,{'a' * 100_000}\n{lines}")
    monkeypatch.setattr(data_columns, "available_memory", lambda: 10**8)
    with pytest.raises(DatasetError, match=r"A column of text needs 0\.4 GiB of memory"):
        open_csv(path).read(["batch"], slice(None))
    assert len(open_csv(path).read(["x"], slice(None))["x"]) == 1001


def test_a_file_is_read_without_the_extra_for_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    for module in ("h5py", "minari", "pyarrow", "pandas"):
        monkeypatch.setitem(sys.modules, module, None)
    found: Any = Dataset.load(written(tmp_path, LOGS), columns=NAMES, episode="batch")
    assert found.episode_lengths.tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    "ids",
    [
        ["3.1", "3.1", "3.10", "3.2", "3.2"],
        ["1_10", "1_10", "11_0", "110", "110"],
        ["20240131123000000001", "20240131123000000001", "20240131123000000002", "2", "2"],
        ["007", "007", "7", "a", "a"],
        ["b ", " b", "c", " 1", "1"],
    ],
    ids=lambda ids: ids[0],
)
def test_ids_of_episodes_are_read_as_they_are_written(ids: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlox.data.csv_files._BATCH", 2)
    rows = "".join(f"{i},{i % 2},1,{identity}\n" for i, identity in enumerate(ids))
    path = written(tmp_path, f"observations,actions,rewards,episode\n{rows}")
    assert Dataset.load(path).episode_lengths.tolist() == [2, 1, 2]
    assert Dataset.load(path, rows=slice(1, None)).partial == (True, False)


def test_a_number_has_no_underscores(tmp_path: Path):
    path = written(tmp_path, "observations,actions,rewards,terminals\n1_0,0,1,0\n2,1,1,1\n")
    with pytest.raises(DatasetError, match="column 'observations' holds '1_0' in row 0"):
        Dataset.load(path)
