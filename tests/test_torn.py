"""Checkpoints are whole or refused: any cut, any changed byte, any operation of the disk that fails."""

import contextlib
import gc
import json
import os
import random
import shutil
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from safetensors.numpy import save_file

from probes import Diary
from rlox import Policy, Trainer
from rlox.errors import CheckpointError, ConfigError, RloxError
from rlox.runs import checkpoint
from rlox.runs.logs import RunLog
from schedules import differences, result

TINY: dict[str, Any] = {"hidden": 2, "batch_size": 4, "learning_starts": 1000, "buffer_size": 20}
HOW: dict[str, Any] = {"log_interval": 4, "checkpoint_interval": 6, "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with Trainer("bc", Diary(), config=TINY, run_dir=folder / "run") as trainer:
        trainer.train(9, checkpoint_interval=3, progress=False)
    return folder / "run"


def refused(file: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(file)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.long
def test_a_checkpoint_that_is_cut_anywhere_is_refused(run: Path, tmp_path: Path):
    content, file = (run / checkpoint.NAME).read_bytes(), tmp_path / "cut.safetensors"
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        refused(file)
    file.write_bytes(content + b"x")
    refused(file)


def test_a_checkpoint_with_any_byte_changed_is_refused(run: Path, tmp_path: Path):
    content, file, rng = (run / checkpoint.NAME).read_bytes(), tmp_path / "changed.safetensors", random.Random(0)
    file.write_bytes(content)
    checkpoint.load(file)
    for place in range(0, len(content), 5):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        refused(file)


@pytest.mark.slow
def test_a_checkpoint_with_every_byte_changed_or_cut_off_is_refused(run: Path, tmp_path: Path):
    content, file = (run / checkpoint.NAME).read_bytes(), tmp_path / "changed.safetensors"
    for place in range(len(content)):
        file.write_bytes(content[:place])
        refused(file)
        for bit in (0, 5, 7):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            refused(file)


def test_a_torn_checkpoint_is_named_and_the_one_before_it_used(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    names = (checkpoint.NAME, *checkpoint.OLDER)
    steps = [Trainer.load(tmp_path / "run" / name, env=Diary()).env_steps for name in names]
    assert steps == [9, 6, 3]
    for torn, then in ((1, 6), (2, 3)):
        file = tmp_path / "run" / names[torn - 1]
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.warns(UserWarning, match=r"is used") as told:
            assert Trainer.load(tmp_path / "run", env=Diary()).env_steps == then
        assert [names[i] in str(one.message) for i, one in enumerate(told)] == [True] * torn
        with pytest.warns(UserWarning, match=r"is used"):
            Policy.load(tmp_path / "run")
    (tmp_path / "run" / names[2]).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"2 before it cannot be read either"):
        Trainer.load(tmp_path / "run", env=Diary())


def test_a_missing_latest_checkpoint_is_made_up_for_by_the_one_before(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / checkpoint.NAME).unlink()
    assert Trainer.load(tmp_path / "run", env=Diary()).env_steps == 6


def test_files_have_the_permissions_of_new_files(tmp_path: Path):
    before = os.umask(0o027)
    try:
        with Trainer("bc", Diary(), config=TINY, run_dir=tmp_path / "run") as trainer:
            trainer.train(3, progress=False)
            trainer.policy.save(tmp_path / "policy.safetensors")
    finally:
        os.umask(before)
    for file in (tmp_path / "run" / checkpoint.NAME, tmp_path / "run" / "config.json", tmp_path / "policy.safetensors"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_the_best_checkpoint_is_that_of_the_best_evaluation(tmp_path: Path):
    class Fading(Diary):
        """Pays less with every step of its life."""

        age = 0

        def step(self, action: Any) -> Any:
            self.age += 1
            obs, _, terminated, truncated, info = super().step(action)
            return obs, -float(self.age), terminated, truncated, info

    with Trainer("bc", Fading(), config=TINY, run_dir=tmp_path / "run") as trainer:
        trainer.train(40, eval_interval=10, n_eval_episodes=1, progress=False)
    best = tmp_path / "run" / checkpoint.BEST
    Policy.load(best)
    with pytest.warns(UserWarning, match="made without its replay"):
        loaded = Trainer.load(best, env=Fading())
    assert loaded.env_steps == 10
    assert checkpoint.header(best)["standing"]["best"] == checkpoint.header(tmp_path / "run")["standing"]["best"]


@pytest.mark.long
def test_a_run_without_replay_in_its_checkpoints_collects_before_it_learns(tmp_path: Path):
    config = {**TINY, "learning_starts": 10, "buffer_size": 100}
    with Trainer("bc", Diary(), config=config, run_dir=tmp_path / "run") as trainer:
        trainer.train(30, checkpoint_replay=False, progress=False)
        learned = trainer.gradient_steps
    with pytest.warns(UserWarning, match="made without its replay"):
        loaded = Trainer.load(tmp_path / "run", env=Diary())
    with loaded:
        loaded.train(9, progress=False)
        assert loaded.gradient_steps == learned
        assert len(loaded.replay_dataset()) == 9
        loaded.train(5, progress=False)
        assert loaded.gradient_steps == learned + 5


# What a file may not do.


def forge(run: Path, file: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """Write a checkpoint whose checksums fit, with another header and other arrays."""
    arrays, header = checkpoint.load(run)
    change(header, arrays)
    return checkpoint.write(file, arrays, {k: v for k, v in header.items() if k not in ("format", "arrays")})


def set_(*path: Any, to: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(header: dict[str, Any], arrays: dict[str, Any]) -> None:
        inside: Any = header
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = to

    return change


def put(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda header, arrays: arrays.update({name: np.asarray(value)})


BIG = 10**15


@pytest.mark.parametrize(
    "change",
    [
        set_("spec", "config", "hidden", to=BIG),
        set_("spec", "config", "hidden", to=[10**9, 10**9]),
        set_("spec", "config", "n_envs", to=BIG),
        set_("spec", "config", "buffer_size", to=10**17),
        set_("spec", "config", "hidden", to="wide"),
        set_("spec", "config", to=None),
        set_("spec", to=[]),
        set_("spec", "algorithm", to=7),
        set_("spec", "budget", "log_interval", to="often"),
        set_("spec", "budget", "unknown", to=1),
        set_("spec", "env", to={"module": "os"}),
        set_("standing", to=3),
        set_("standing", "cursor", to={"offline": 1}),
        set_("standing", "cursor", "end", to="late"),
        set_("standing", "cursor", "intervals", "log", to=0),
        set_("standing", "best", to="good"),
        set_("logged", to="much"),
        set_("observation_space", to={"type": "Box", "shape": [BIG], "dtype": "float32"}),
        set_("observation_space", to={"type": "Discrete", "n": 10**18, "start": 0}),
        put("replay_rows", BIG),
        put("replay_rows", -1),
        put("replay_rows", [1.0, 2.0]),
        put("replay.size", np.array([-1], np.int32)),
        put("replay.size", np.array([1000], np.int32)),
        put("replay.position", np.array([1000], np.int32)),
        put("replay.columns.reward", np.zeros((5, 1), np.float32)),
        put("streams.kept", np.array([7])),
        put("streams.episode", np.array([-5])),
        put("streams.episode", np.zeros(3, np.int64)),
        put("streams.actions", np.zeros((3, 9), np.float32)),
        put("env_steps", -3),
        put("replay.columns.obs", np.zeros((9, 1, 1), np.float32)),
        put("offline_at", -1),
        put("rogue", 1),
    ],
)  # fmt: skip
def test_what_a_checkpoint_claims_is_checked_before_anything_is_made_of_it(run: Path, tmp_path: Path, change: Any):
    file = forge(run, tmp_path / "checkpoint.safetensors", change)
    with pytest.raises(RloxError) as error:
        Trainer.load(file, env=Diary())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [2**60, 2**31, 10**8 + 1, 0])
def test_a_header_of_any_length_is_refused_before_it_is_read(tmp_path: Path, length: int):
    file = tmp_path / "big.safetensors"
    file.write_bytes(struct.pack("<Q", length) + b"{}")
    assert "cannot be read" in refused(file)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "7", "[]", "null", '{"format": "3"}', "{"],
    ids=["deep lists", "deep tables", "number", "list", "null", "format", "cut"],
)
def test_a_header_that_is_no_table_of_a_checkpoint_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "strange.safetensors"
    save_file({"a": np.zeros(3)}, file, metadata={"rlox": text})
    refused(file)


def test_a_header_that_claims_a_petabyte_is_refused(tmp_path: Path):
    entry = {"dtype": "F32", "shape": [2**48], "data_offsets": [0, 2**50]}
    header = json.dumps({"__metadata__": {"rlox": "{}"}, "a": entry}).encode()
    file = tmp_path / "claims.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    refused(file)


def test_a_link_out_of_the_folder_is_refused(run: Path, tmp_path: Path):
    (tmp_path / checkpoint.NAME).symlink_to(run / checkpoint.NAME)
    assert "is a link out of its folder" in refused(tmp_path)


def test_data_that_a_checkpoint_names_outside_its_reach_are_not_opened(run: Path, tmp_path: Path):
    np.savez(tmp_path / "logs.npz", observations=np.zeros((3, 2)))
    named = os.path.join(tmp_path, "x", "..", "logs.npz")
    forge(run, tmp_path / "checkpoint.safetensors", set_("spec", "dataset", to=named))
    (tmp_path / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    assert not Trainer.load(tmp_path, env=Diary()).train(1, progress=False)["gradient_steps"]


def test_a_policy_whose_networks_are_larger_than_its_file_is_refused(run: Path, tmp_path: Path):
    file = forge(run, tmp_path / "policy.safetensors", set_("spec", "config", "hidden", to=10**9))
    with pytest.raises(CheckpointError, match=r"says networks of [\d,]+ weights, but holds"):
        Policy.load(file)


# What a disk may do.


@pytest.fixture
def _frozen() -> None:
    """Leave out of the collections of a test, of which it has dozens, what there is before it."""
    gc.collect()
    gc.freeze()


class Killed(BaseException):
    """The process is gone: nothing after it has an effect."""


class Disk:
    """Counts what is done to the disk, and does something else at one of these operations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: str, at: int):
        self.count, self.fault, self.at, self.dead = 0, fault, at, False
        patch = monkeypatch.setattr
        patch(os, "fsync", self.wrap(os.fsync))
        for name in ("replace", "touch", "chmod", "unlink", "mkdir"):
            patch(Path, name, self.wrap(getattr(Path, name)))
        patch(checkpoint, "save_file", self.wrap(save_file, half=half_a_file))
        patch(RunLog, "_append", self.wrap(RunLog._append))

    def wrap(self, do: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            if self.dead:
                raise Killed
            self.count += 1
            if self.count != self.at:
                return do(*args, **options)
            if self.fault == "short" and half:
                return half(*args, **options)
            if self.fault in ("fails", "short"):
                raise OSError(28, "No space left on device")
            if self.fault == "last":
                do(*args, **options)
            elif half:
                half(*args, **options)
            self.dead = True
            raise Killed

        return operation


def half_a_file(arrays: Any, path: Path, metadata: Any) -> None:
    save_file(arrays, path, metadata)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str, at: int) -> Disk:
    """Run in a folder, with a fault of the disk at its operation ``at``."""
    trainer = None
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disk = Disk(patch, fault, at)
        try:
            trainer = Trainer("bc", World, config=TINY, run_dir=folder)
            trainer.train(14, **HOW)
        except Killed:
            pass
        with contextlib.suppress(ResourceWarning):
            gc.collect()
    if trainer:
        # As the system does for a process that is gone.
        trainer.close()
    return disk


def go_on(folder: Path) -> None:
    """Finish the run of a folder, or begin it."""
    if not checkpoint.exists(folder):
        with Trainer("bc", World, config=TINY, run_dir=folder) as trainer:
            trainer.train(14, **HOW)
        return
    with Trainer.load(folder, env=World) as trainer:
        if trainer.env_steps < 14:
            trainer.train(14 - trainer.env_steps, **HOW)


class World(gym.Env[Any, Any]):
    def __init__(self):
        self.observation_space, self.action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        obs = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return obs, float(action), bool(self.np_random.random() < 0.2), False, {}


FEW_AND_ALL = [(3, 6), pytest.param(1, 1, marks=pytest.mark.slow)]
"""The first operation of the disk that goes wrong, and the steps between those that do."""


@pytest.mark.long
@pytest.mark.usefixtures("_frozen")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", ["last", "in the middle"])
@pytest.mark.parametrize(("first", "every"), FEW_AND_ALL)
def test_a_run_goes_on_after_a_kill_at_any_operation_of_the_disk(
    first: int, every: int, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    at = first - every
    tiny(tmp_path / "whole", monkeypatch, "none", 0)
    wanted = result(tmp_path / "whole")
    while True:
        at += every
        folder = tmp_path / str(at)
        if not tiny(folder, monkeypatch, fault, at).dead:
            break
        go_on(folder)
        assert differences(result(folder), wanted) == [], at
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".") and "checkpoint" in path.name]
    assert at > 40


@pytest.mark.usefixtures("_frozen")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", ["fails", "short"])
@pytest.mark.parametrize(("first", "every"), FEW_AND_ALL)
def test_training_goes_on_when_any_operation_of_the_disk_fails(
    first: int, every: int, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    at = first - every
    tiny(tmp_path / "whole", monkeypatch, "none", 0)
    wanted = result(tmp_path / "whole")
    while True:
        at += every
        folder = tmp_path / str(at)
        try:
            disk = tiny(folder, monkeypatch, fault, at)
        except ConfigError:
            # The folder itself could not be made or claimed.
            assert not (folder / checkpoint.NAME).exists()
            continue
        if disk.count < at:
            break
        # What failed may have been the last checkpoint.
        go_on(folder)
        assert differences(result(folder), wanted) == [], at
    assert at > 40
