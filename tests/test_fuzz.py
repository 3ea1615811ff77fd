"""Whatever a file holds, it is read or refused by one line: garbage with the right words, and damaged files."""

import contextlib
import csv
import functools
import gzip
import inspect
import io
import itertools
import json
import resource
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cyclopts import App, CycloptsError, Parameter
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from probes import World
from rlox import ALGORITHMS, Dataset, Policy, Trainer
from rlox.cli.errors import explain
from rlox.cli.options import Options, setting_parameters
from rlox.cli.sources import apply_file
from rlox.cli.values import check_whole_numbers
from rlox.envs.space_json import describe, parse
from rlox.errors import RloxError
from rlox.runs import checkpoint

N = 6
D3RLPY = Path(__file__).parent / "data" / "d3rlpy"
SPACE = spaces.Dict({"goal": spaces.Discrete(3), "pair": spaces.Tuple([spaces.Box(-1, 1, (2,))])})


def table() -> dict[str, Any]:
    return {
        "observations": np.arange(2.0 * N, dtype=np.float32).reshape(N, 2),
        "actions": np.arange(N) % 2,
        "rewards": np.arange(N, dtype=np.float32),
        "terminals": np.arange(N) == 3,
        "timeouts": np.arange(N) == 5,
    }


# Values that are small, at an edge, or enormous.
sizes = st.one_of(
    st.integers(0, 4), st.sampled_from([-1, 2**31, 2**53, 2**63 - 1, 2**63, 10**15, 10**18, 10**400]), st.integers()
)
names = st.sampled_from([*table(), "next_observations", "observations/goal", "observation_space", "action_space"])
texts = st.one_of(st.text(max_size=5), names, st.sampled_from(["a\nb", "\x1b[31m", "..", "/", "\ud800", ""]))
kinds = st.sampled_from(["Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple", "Text", "Blob"])
types = st.sampled_from(["float32", "float64", "uint8", "int64", "bool", "O", "U9", "S0", "M8[s]", "f4,i4", "c8", "x"])
scalars = st.one_of(sizes, st.floats(), texts, st.none(), st.booleans(), kinds, types, st.just("inf"))
listed = st.one_of(st.lists(scalars, max_size=3), scalars)
any_json = st.recursive(
    scalars,
    lambda parts: st.one_of(st.lists(parts, max_size=3), st.dictionaries(texts, parts, max_size=3)),
    max_leaves=8,
)
described = st.deferred(
    lambda: st.fixed_dictionaries(
        {"type": kinds},
        optional={
            "shape": st.one_of(st.lists(sizes, max_size=4), scalars),
            "dtype": st.one_of(types, scalars),
            **dict.fromkeys(("low", "high", "start", "nvec"), st.one_of(listed, any_json)),
            "n": st.one_of(sizes, st.lists(sizes, max_size=3), any_json),
            "spaces": st.lists(st.one_of(described, st.tuples(texts, described), any_json), max_size=3),
            "subspaces": st.one_of(st.dictionaries(texts, described, max_size=3), st.lists(described, max_size=3)),
        },
    )
)
deep = st.sampled_from(["[", '{"type":"Tuple","spaces":[', '{"a":']).map(lambda opening: 5000 * opening)
json_texts = st.one_of(st.one_of(described, any_json).map(json.dumps), deep, st.text(max_size=20))


def swap(raw: bytes, at: int, to: int, n: int) -> bytes:
    first, last = sorted((at, to))
    n = min(n, last - first, len(raw) - last)
    return raw[:first] + raw[last : last + n] + raw[first + n : last] + raw[first : first + n] + raw[last + n :]


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Draw a file with bytes changed, stretches swapped or set to one value, and possibly its end cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw) - 1))
        match draw(st.sampled_from(["flip", "swap", "fill", "cut"])):
            case "flip":
                raw = raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
            case "swap":
                raw = swap(raw, at, draw(st.integers(0, len(raw) - 1)), draw(st.integers(1, 64)))
            case "fill":
                n = draw(st.sampled_from([2, 4, 7, 8]))
                raw = raw[:at] + bytes([draw(st.sampled_from([0, 0x7F, 0xFF]))]) * n + raw[at + n :]
            case _:
                raw = raw[: max(at, 1)]
    return raw


def lines_of(columns: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the header and the rows of columns as text, columns of several numbers as numbered ones."""
    flat: dict[str, list[str]] = {}
    for name, values in columns.items():
        parts = [values] if np.ndim(values) == 1 else np.transpose(values)
        for i, part in enumerate(parts):
            flat[name if len(parts) == 1 else f"{name}_{i}"] = [str(value) for value in part]
    return [tuple(flat), *itertools.zip_longest(*flat.values(), fillvalue="")]


@functools.cache
def valid(suffix: str) -> bytes:
    """Return a whole file of a format; of Minari's folder, the values."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"logs{suffix}"
        if suffix == ".csv":
            path.write_text("\n".join(map(",".join, lines_of(table()))))
        elif suffix == ".parquet":
            pq.write_table(pa.table({key: values.tolist() for key, values in table().items()}), path)
        else:
            Dataset.from_arrays(table()).save(path)
        return (path if suffix else path / "data" / "main_data.hdf5").read_bytes()


Write = Callable[[Path], object]


def written(raw: bytes) -> Write:
    return lambda path: path.write_bytes(raw)


def load(path: Path) -> None:
    dataset = Dataset.load(path)
    assert len(dataset.transitions().reward) <= len(dataset)
    dataset.summary()


def load_space(path: Path) -> None:
    parse(path.read_text(encoding="utf-8", errors="replace"))


headers = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(["<f4", "<f8", "<i8", "|b1", "|O", "<U9", "|S0", "<U536870911", "|V8", "<M8[s]", "x"]),
        "fortran_order": st.booleans(),
        "shape": st.lists(sizes, max_size=3).map(tuple),
    }
)


@st.composite
def archives(draw: st.DrawFn) -> Write:
    """Draw a NumPy archive in which some columns are others than they should be, or claim to be."""
    changed = draw(
        st.dictionaries(names, st.one_of(any_arrays, headers, st.binary(max_size=40), json_texts), max_size=3)
    )

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, column in {**table(), **changed}.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    if isinstance(column, bytes):
                        entry.write(column)
                    elif isinstance(column, dict):
                        np.lib.format.write_array_header_1_0(entry, column)
                        entry.write(bytes(48))
                    else:
                        np.lib.format.write_array(entry, np.array(column), allow_pickle=True)

    return write


any_arrays = arrays.arrays(
    st.one_of(arrays.scalar_dtypes(), st.just(np.dtype("f4,i4"))),
    st.one_of(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=N), st.just((N,)), st.just((N, 2))),
)


@st.composite
def hdf5_files(draw: st.DrawFn) -> Write:
    """Draw an HDF5 file in which some columns are others than they should be, are elsewhere, or are links."""
    kinds = ["array", "claim", "soft", "external", "group", "virtual", "raw", "text", "empty", "time", "reference"]
    changed = draw(st.dictionaries(names, st.sampled_from(kinds), max_size=3))
    values, shape = draw(any_arrays), draw(st.sampled_from([(0,), (N, 0), (2**20,), (2**40,), (N, 2**20), (N, 2**40)]))
    target, text = draw(st.sampled_from(["/", "/rewards", "/a", "/group", "observations"])), draw(json_texts)

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, column in table().items():
                if name not in changed and f"{name}/goal" not in changed:
                    file[name] = column
            for name, kind in changed.items():
                with contextlib.suppress(TypeError, ValueError, OSError, KeyError, RuntimeError):
                    _put(file, name, kind, values, shape, target, text)

    return write


def _put(file: Any, name: str, kind: str, values: Any, shape: tuple[int, ...], target: str, text: str) -> None:
    match kind:
        case "array":
            file[name] = values
        case "claim":
            chunks = tuple(min(max(size, 1), 4096) for size in shape)
            file.create_dataset(name, shape, values.dtype, chunks=chunks, maxshape=(None, *shape[1:]))
        case "soft":
            file[name] = h5py.SoftLink(target)
        case "external":
            file[name] = h5py.ExternalLink("/dev/zero", target)
        case "group":
            file[f"{name}/inside"] = values
        case "virtual":
            layout = h5py.VirtualLayout((N,), np.float32)
            layout[:] = h5py.VirtualSource(".", target, (N,))
            file.create_virtual_dataset(name, layout)
        case "raw":
            file.create_dataset(name, (N,), np.uint8, external=[("/etc/passwd", 0, N)])
        case "text":
            file[name] = np.bytes_(text.encode(errors="replace"))
        case "empty":
            file[name] = h5py.Empty("f4")
        case "time":
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.UNIX_D32LE.copy(), h5py.h5s.create_simple((N,)))
        case _:
            file.create_dataset(name, (N,), h5py.ref_dtype)


@st.composite
def parquet_files(draw: st.DrawFn) -> Write:
    """Draw a Parquet file with some columns of other types, nested, or with missing values."""
    number = st.one_of(st.none(), st.integers(-9, 9), st.just(10**18))
    element = draw(
        st.sampled_from(
            [
                number,
                st.one_of(st.none(), st.floats(width=32)),
                st.text(max_size=3),
                st.binary(max_size=3),
                st.booleans(),
                st.dates(),
                st.decimals(0, 9, places=1),
                st.lists(number, max_size=2),
                st.lists(st.lists(number, min_size=1, max_size=1), min_size=2, max_size=2),
                st.fixed_dictionaries({"a": number, "b": st.lists(number, max_size=1)}),
                st.none(),
            ]
        )
    )
    column = pa.array(draw(st.lists(element, min_size=N, max_size=N)))
    if draw(st.booleans()) and not pa.types.is_nested(column.type) and not pa.types.is_null(column.type):
        column = column.dictionary_encode()
    changed = dict.fromkeys(draw(st.lists(names, min_size=1, max_size=2)), column)
    rows = draw(st.sampled_from([1, 4, N]))
    columns = {key: pa.array(values.tolist()) for key, values in table().items()}
    return lambda path: pq.write_table(pa.table({**columns, **changed}), path, row_group_size=rows)


cells = st.one_of(
    st.sampled_from(
        ["0", "1", "-1", "0.5", "1e999", "nan", "inf", "True", "", " ", "1_0", "1,5", '"', "\0", "2020-01-01"]
    ),
    st.sampled_from(["9" * 400, "9" * 5000, "a" * 200_000, "\ufeff", "\r", "\n"]),
    st.text(max_size=4),
)


@st.composite
def csv_files(draw: st.DrawFn) -> Write:
    """Draw a CSV file some columns of which have other names, values or lengths, quoted as they should be or not."""
    others = st.sampled_from([*table(), "episode", "observations_1", "next_observations", "x", "", "1"])
    changed = draw(st.dictionaries(others, st.lists(cells, max_size=N + 1), max_size=3))
    lines = lines_of({**table(), **changed})
    if draw(st.booleans()):
        made = io.StringIO()
        csv.writer(made, delimiter=draw(st.sampled_from(",;\t"))).writerows(lines)
        text = made.getvalue()
    else:
        text = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])).join(map(draw(st.sampled_from(",;\t")).join, lines))
    return written(text.encode(draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"])), errors="replace"))


@st.composite
def d3rlpy_files(draw: st.DrawFn) -> Write:
    """Draw a file of d3rlpy, of two episodes, in which some entries are others than they should be."""
    known: dict[str, Any] = {"num_episodes": 2}
    for i in (0, 1):
        known |= {f"observations_{i}": np.ones((3, 2)), f"actions_{i}": np.ones((3, 1)) * [[0], [1], [1]]}
        known |= {f"rewards_{i}": np.ones((3, 1)), f"terminated_{i}": bool(i)}
    kinds = ["array", "claim", "soft", "external", "group", "virtual", "raw", "text", "empty", "time", "reference", ""]
    places = st.sampled_from([*known, "observations_0_0", "observations_0_1", "observations_2"])
    changed = draw(st.dictionaries(places, st.sampled_from(kinds), max_size=3))
    known["num_episodes"] = draw(st.one_of(st.just(2), st.sampled_from([-1, 0, 1, 3, 2**62, 2.0, True, [2]])))
    values, shape = draw(any_arrays), draw(st.sampled_from([(0,), (N, 0), (2**40,), (3, 2**20), (3, 2**40)]))
    target, text = draw(st.sampled_from(["/", "/rewards_0", "/a", "/group"])), draw(json_texts)

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, value in known.items():
                if name not in changed:
                    file[name] = value
            for name, kind in changed.items():
                with contextlib.suppress(TypeError, ValueError, OSError, KeyError, RuntimeError):
                    if kind:
                        _put(file, name, kind, values, shape, target, text)

    return write


@st.composite
def metadata(draw: st.DrawFn) -> Write:
    """Draw a Minari dataset with other metadata, or none."""
    keys = ("total_episodes", "total_steps", "data_format", "dataset_id", "minari_version", "jpeg_encoding", "env_spec")
    spaced = st.dictionaries(st.sampled_from(["observation_space", "action_space"]), json_texts, max_size=2)
    other = st.dictionaries(st.sampled_from(keys), st.one_of(scalars, any_json), max_size=2)
    changed, missing = {**draw(spaced), **draw(other)}, draw(st.lists(st.sampled_from(keys[:5]), max_size=1))
    raw = draw(st.one_of(st.none(), json_texts))
    return minari(lambda known: raw or json.dumps({k: v for k, v in {**known, **changed}.items() if k not in missing}))


@functools.cache
def minari_folder() -> Path:
    folder = Path(tempfile.mkdtemp()) / "logs"
    Dataset.from_arrays(table()).save(folder)
    return folder


def minari(change: Callable[[dict[str, Any]], str | bytes] = json.dumps, values: bytes | None = None) -> Write:
    """Return what writes a Minari dataset with changed metadata, or with other values."""

    def write(path: Path) -> None:
        shutil.copytree(minari_folder(), path)
        if values is not None:
            (path / "data" / "main_data.hdf5").write_bytes(values)
        file = path / "data" / "metadata.json"
        changed = change(json.loads(file.read_text()))
        file.write_bytes(changed.encode(errors="replace") if isinstance(changed, str) else changed)

    return write


TOML = (
    b'algorithm = "awr"\nenv = "CartPole-v1"\nbeta = 0.25\nn-envs = 4\nhidden = [8, 8]\nlayer_norm = true\nseed = 7\n'
)
toml_keys = st.one_of(st.sampled_from(["env", "beta", "hidden", "seed", "layer_norm", "algorithm", "x", "a.b", '""']))
toml_scalars = st.one_of(
    st.sampled_from(["1", "-0.5", "true", '"none"', '"a\\nb"', "inf", "nan", "1e999", "1979-05-27", "07:32:00", "''"]),
    st.sampled_from(["9" * 30, "9" * 5000, "-" + "9" * 30, "0x" + "f" * 9000, "[" * 5000, "{a=" * 5000, "'''a\n'''"]),
)
toml_values = st.recursive(
    toml_scalars,
    lambda parts: st.one_of(
        st.lists(parts, max_size=3).map(lambda found: f"[{', '.join(found)}]"),
        parts.map(lambda part: f"{{a = {part}}}"),
    ),
    max_leaves=4,
)
toml_lines = st.one_of(
    st.tuples(toml_keys, toml_values).map(" = ".join), toml_keys.map("[{}]".format), st.text(max_size=9)
)
toml_files = st.one_of(
    st.lists(toml_lines, max_size=4).map(lambda lines: "\n".join(lines).encode(errors="replace")),
    st.binary(max_size=40),
)


@functools.cache
def awr() -> App:
    def run(**given: Any) -> None: ...

    keyword = inspect.Parameter.KEYWORD_ONLY
    options = inspect.Parameter(
        "options", keyword, default=Options(), annotation=Annotated[Options, Parameter(name="*")]
    )
    settings_of_awr = setting_parameters("awr", ALGORITHMS["awr"].config)
    run.__signature__ = inspect.Signature([options, *settings_of_awr])  # pyright: ignore
    app = App(config=(apply_file, check_whole_numbers), exit_on_error=False, print_error=False)
    app.command(run, name="awr")
    return app


def load_settings(path: Path) -> None:
    try:
        awr()(["awr", "--config", str(path)], result_action="return_value")
    except CycloptsError as error:
        raise RloxError(explain(error)) from None


@functools.cache
def run_file() -> Path:
    """Return the checkpoint of a small run."""
    folder = Path(tempfile.mkdtemp()) / "run"
    with Trainer("bc", World(), config={"hidden": 2, "batch_size": 4, "buffer_size": 20}, run_dir=folder) as trainer:
        trainer.train(12, progress=False)
    return folder / checkpoint.NAME


def paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where the values of a JSON table are."""
    inside = value.items() if isinstance(value, dict) else ()
    return [place for key, part in inside for place in [(*before, key), *paths(part, (*before, key))]]


@st.composite
def checkpoints(draw: st.DrawFn, known: tuple[dict[str, Any], dict[str, Any]]) -> Write:
    """Draw a checkpoint whose checksums fit, with other values in its header and other arrays."""
    found, header = {**known[0]}, json.loads(json.dumps(known[1]))
    for place in draw(st.lists(st.sampled_from(paths(header)), max_size=2)):
        inside: Any = header
        with contextlib.suppress(KeyError, TypeError):
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = draw(st.one_of(any_json, described))
    numbers = st.sampled_from([-1, 0, 1, 7, 1000, 2**31 - 1, 2**31, 2**62])
    for name in draw(st.lists(st.sampled_from([*found, "rogue"]), max_size=2)):
        match draw(st.sampled_from(["other", "count", "none"])):
            case "other":
                shape = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=N)
                kept = st.sampled_from([np.dtype(t) for t in ("float32", "int32", "int64", "uint32", "bool", "uint8")])
                found[name] = draw(arrays.arrays(kept, shape))
            case "count" if name in found:
                found[name] = np.full(found[name].shape, draw(numbers)).astype(found[name].dtype)
            case _:
                found.pop(name, None)
    about = {key: value for key, value in header.items() if key not in ("format", "arrays")}
    return lambda path: checkpoint.write(path, found, about)


def load_run(path: Path) -> None:
    """Load a run as far as to its first step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Trainer.load(path, env=World()) as trainer:
            trainer.train(1, progress=False)


def load_policy(path: Path) -> None:
    Policy.load(path)


class Parser(NamedTuple):
    """What is read, of which name, and how."""

    files: Callable[[], st.SearchStrategy[Write]]
    name: str = "logs"
    read: Callable[[Path], None] = load


def space_text() -> bytes:
    return json.dumps(describe(SPACE)).encode()


PARSERS = {
    "space, garbage": Parser(
        lambda: json_texts.map(lambda text: written(text.encode(errors="replace"))), "space.json", load_space
    ),
    "space, damaged": Parser(lambda: damaged(space_text()).map(written), "space.json", load_space),
    "npz, garbage": Parser(archives, "logs.npz"),
    "npz, damaged": Parser(lambda: damaged(valid(".npz")).map(written), "logs.npz"),
    "hdf5, garbage": Parser(hdf5_files, "logs.hdf5"),
    "hdf5, damaged": Parser(lambda: damaged(valid(".hdf5")).map(written), "logs.hdf5"),
    "parquet, garbage": Parser(parquet_files, "logs.parquet"),
    "parquet, damaged": Parser(lambda: damaged(valid(".parquet")).map(written), "logs.parquet"),
    "csv, garbage": Parser(csv_files, "logs.csv"),
    "csv, damaged": Parser(lambda: damaged(valid(".csv")).map(written), "logs.csv"),
    "csv.gz, damaged": Parser(lambda: damaged(gzip.compress(valid(".csv"), mtime=0)).map(written), "logs.csv.gz"),
    "d3rlpy, garbage": Parser(d3rlpy_files, "logs.h5"),
    "d3rlpy, damaged": Parser(lambda: damaged((D3RLPY / "continuous.h5").read_bytes()).map(written), "logs.h5"),
    "minari, garbage": Parser(metadata),
    "minari, damaged metadata": Parser(
        lambda: damaged((minari_folder() / "data" / "metadata.json").read_bytes()).map(
            lambda raw: minari(lambda _: raw)
        )
    ),
    "minari, damaged values": Parser(lambda: damaged(valid("")).map(lambda raw: minari(values=raw))),
    "checkpoint, garbage": Parser(lambda: checkpoints(checkpoint.load(run_file())), "run.safetensors", load_run),
    "checkpoint, damaged": Parser(lambda: damaged(run_file().read_bytes()).map(written), "run.safetensors", load_run),
    "policy, garbage": Parser(lambda: checkpoints(checkpoint.load(run_file())), "run.safetensors", load_policy),
    "settings, garbage": Parser(lambda: toml_files.map(written), "run.toml", load_settings),
    "settings, damaged": Parser(lambda: damaged(TOML).map(written), "run.toml", load_settings),
}


@contextlib.contextmanager
def fresh(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.parametrize("n_files", [60, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("parser", PARSERS)
def test_any_file_is_read_or_refused_in_one_line(parser: str, n_files: int):
    made, name, read = PARSERS[parser]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=n_files, suppress_health_check=SLOW)
    @given(made())
    def check(write: Write) -> None:
        with fresh(name) as path:
            write(path)
            try:
                read(path)
            except RloxError as error:
                assert str(error).isprintable()  # noqa: PT017
                assert len(str(error)) < 3100  # noqa: PT017

    check()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "a file took more than a GiB"
