"""Loggers: what services and files get, also when a run continues; what goes wrong."""

import csv
import gc
import importlib.util
import os
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlox import Trainer
from rlox.errors import CheckpointError, ConfigError
from rlox.loggers import LOGGERS, CSVLogger, MLflowLogger, TrackioLogger, WandbLogger, read_ids
from rlox.runs.csv_file import CSVFile

TINY: dict[str, Any] = {"hidden": 8, "batch_size": 16, "learning_starts": 20, "buffer_size": 200}
OFFLINE: dict[str, Any] = {"dataset": "cartpole-random", "config": {"hidden": 8, "batch_size": 16}}


class Diary:
    """Notes what a logger is told."""

    def __init__(self, fail_at: tuple[int, ...] = (), run_id: str | None = None):
        self.notes: list[Any] = []
        self._fail_at, self._id = fail_at, run_id

    def open(self, run: Mapping[str, Any], resume_id: str | None) -> str | None:
        self.run = run
        self.notes.append(("open", resume_id))
        return self._id

    def log(self, record: Mapping[str, float], *, offline: bool) -> None:
        step = record["gradient_steps" if offline else "env_steps"]
        self.notes.append(("offline" if offline else "online", step))
        if step in self._fail_at:
            raise ConnectionError("no route\nto host")

    def close(self) -> None:
        self.notes.append("close")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def steps_of(path: Path) -> list[int]:
    return [int(row["env_steps"]) for row in rows(path)]


def stopping_at(step: int) -> Callable[..., bool]:
    return lambda trainer, metrics: trainer.env_steps < step


# What every logger is told.


@pytest.mark.long
def test_a_logger_is_opened_once_told_every_record_and_closed_with_its_trainer(tmp_path: Path):
    diary = Diary()
    with Trainer("awr", "CartPole-v1", config=TINY, logger=diary, run_dir=tmp_path / "run") as trainer:
        trainer.train(60, log_interval=30)
        trainer.train(30)
        assert diary.notes == [("open", None), ("online", 30), ("online", 60), ("online", 90)]
    assert diary.notes[4:] == ["close"]
    assert diary.run["algorithm"] == "awr"
    assert diary.run["config"]["hidden"] == 8
    assert diary.run["run_dir"] == str(tmp_path / "run")
    assert (diary.run["env_steps"], diary.run["gradient_steps"]) == (0, 0)


def test_a_function_may_take_its_record_apart(tmp_path: Path):
    seen: list[float] = []
    loggers: Any = [lambda record: seen.append(record.pop("env_steps")), CSVLogger(tmp_path / "a.csv")]
    with Trainer("awr", "CartPole-v1", config=TINY, logger=loggers) as trainer:
        trainer.train(40, log_interval=20)
    assert seen == [20, 40]
    assert steps_of(tmp_path / "a.csv") == [20, 40]


@pytest.mark.long
def test_records_of_offline_learning_are_over_gradient_steps():
    diary, seen = Diary(), []
    trainer = Trainer("awr", "CartPole-v1", dataset="cartpole-random", config=TINY, logger=[diary, seen.append])
    trainer.train_offline(40, log_interval=20)
    trainer.train(30)
    assert diary.notes[1:] == [("offline", 20), ("offline", 40), ("online", 20), ("online", 30)]
    assert [record["env_steps"] for record in seen] == [0, 0, 20, 30]


@pytest.mark.long
def test_a_logger_is_closed_when_its_trainer_is_no_more():
    diary = Diary()
    trainer = Trainer("bc", **OFFLINE, logger=diary)
    trainer.train_offline(10)
    del trainer
    gc.collect()
    assert diary.notes[-1] == "close"


def test_what_a_logger_raises_is_said_once_and_training_and_the_other_loggers_go_on():
    diary, seen = Diary(fail_at=(20, 40)), []
    trainer = Trainer("bc", **OFFLINE, logger=[diary, seen.append])
    with pytest.warns(UserWarning, match=r"^Logger Diary failed \(ConnectionError: no route to host\)") as said:
        trainer.train_offline(60, log_interval=20)
    assert len(said) == 1
    assert [record["gradient_steps"] for record in seen] == [20, 40, 60]
    assert diary.notes[1:] == [("offline", 20), ("offline", 40), ("offline", 60)]


def test_a_logger_that_waits_for_a_service_that_is_down_gets_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch):
    from rlox.loggers import Loggers

    now = [0.0]

    class Slow(Diary):
        def log(self, record: Mapping[str, float], *, offline: bool) -> None:
            self.notes.append(now[0])
            now[0] += 5.0
            raise TimeoutError

    monkeypatch.setattr("rlox.loggers.time", SimpleNamespace(monotonic=lambda: now[0]))
    slow = Slow()
    loggers = Loggers(slow)
    loggers.open({})
    with pytest.warns(UserWarning, match="TimeoutError"):
        loggers.log({"env_steps": 1}, offline=False)
    for _ in range(120):
        loggers.log({"env_steps": 1}, offline=False)
        now[0] += 1.0
    assert slow.notes[1:] == [0.0, 55.0, 110.0]


def test_what_closing_raises_is_a_warning():
    class Stuck(Diary):
        def close(self) -> None:
            raise OSError("stuck")

    trainer = Trainer("bc", **OFFLINE, logger=Stuck())
    trainer.train_offline(5)
    with pytest.warns(UserWarning, match=r"Logger Stuck failed \(OSError: stuck\): it could not be closed"):
        trainer.close()


def test_a_logger_that_cannot_start_is_an_error_before_training():
    class Broken(Diary):
        def open(self, run: Mapping[str, Any], resume_id: str | None) -> str | None:
            raise PermissionError("no key")

    trainer = Trainer("bc", **OFFLINE, logger=Broken())
    with pytest.raises(ConfigError, match=r"^Logger Broken cannot start: PermissionError: no key$"):
        trainer.train_offline(5)
    assert trainer.gradient_steps == 0


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        ("wandbb", "'wandbb' is not a logger. Did you mean 'wandb'?"),
        (CSVLogger, "is a class: pass CSVLogger"),
        (5, "logger=5 is not a logger: pass a name"),
        (["csv", None], "logger=None is not a logger"),
        (["csv", "csv"], "logger 'csv' is given more than once"),
    ],
)
def test_what_is_not_a_logger_is_refused(logger: Any, message: str):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace("?", r"\?")):
        Trainer("bc", **OFFLINE, logger=logger)


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"The {name} logger needs the extra rlox\[{name}\]: pip install"):
        Trainer("bc", **OFFLINE, logger=name)


def test_every_service_is_an_extra():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(LOGGERS) - {"csv"} <= set(project["optional-dependencies"])


# A run that continues.


def test_a_run_that_continues_is_found_again_by_its_loggers(tmp_path: Path):
    diary = Diary(run_id="abc")
    with Trainer("awr", "CartPole-v1", config=TINY, logger=diary, run_dir=tmp_path / "run") as trainer:
        trainer.train(30)
        trainer.save(tmp_path / "copy")
    for folder, begun in (("run", "abc"), ("copy", None)):
        again = Diary(run_id="def")
        with Trainer.load(tmp_path / folder, logger=again) as loaded:
            loaded.train(30)
        assert again.notes[0] == ("open", begun)
        assert again.run["env_steps"] == 30


def test_a_branch_of_a_run_is_another_run_of_the_service(tmp_path: Path):
    with Trainer("awr", "CartPole-v1", config=TINY, logger=Diary(run_id="a"), run_dir=tmp_path / "run") as trainer:
        trainer.train(60, checkpoint_interval=30)
    branch = Diary(run_id="b")
    older = tmp_path / "run" / "checkpoint.1.safetensors"
    with Trainer.load(older, logger=branch, run_dir=tmp_path / "branch") as loaded:
        loaded.train(30)
    assert branch.notes[0] == ("open", None)
    again = Diary()
    with Trainer.load(tmp_path / "branch", logger=again) as loaded:
        loaded.train(30)
    assert again.notes[0] == ("open", "b")


def test_the_id_is_in_the_first_checkpoint_and_outlives_a_training_without_the_logger(tmp_path: Path):
    from rlox.runs.checkpoint import header

    seen: list[Any] = []
    run = tmp_path / "run"
    note: Any = lambda *_: seen.append(header(run)["loggers"])  # noqa: E731
    with Trainer("awr", "CartPole-v1", config=TINY, logger=Diary(run_id="a"), run_dir=run, callbacks=note) as trainer:
        trainer.train(30)
    with Trainer.load(run, callbacks=note) as loaded:
        loaded.train(30)
    with Trainer.load(run, logger=[Diary(run_id="b"), Diary(run_id="c")], callbacks=note) as loaded:
        loaded.train(30)
    assert seen == [{"Diary": "a"}, {"Diary": "a"}, {"Diary": "b", "Diary#2": "c"}]


@pytest.mark.parametrize("ids", [["a"], {"wandb": 3}, "a"])
def test_ids_that_are_not_texts_are_refused(ids: Any):
    with pytest.raises(CheckpointError, match="the ids of its loggers are not texts"):
        read_ids(Path("run"), {"loggers": ids})


# CSV files.


def test_csv_columns_may_come_later_and_rows_are_padded(tmp_path: Path):
    with Trainer("awr", "CartPole-v1", config=TINY, logger="csv", run_dir=tmp_path / "run") as trainer:
        trainer.train(90, log_interval=10, eval_interval=45, n_eval_episodes=1)
    found = rows(tmp_path / "run" / "metrics.csv")
    assert [int(row["env_steps"]) for row in found] == [10, 20, 30, 40, 45, 50, 60, 70, 80, 90]
    assert [row["env_steps"] for row in found if row["eval/mean_reward"]] == ["45", "90"]
    assert {len(row) for row in found} == {len(found[0])}
    assert found[0]["actor/loss"] == ""
    assert float(found[-1]["actor/loss"]) == trainer.last_metrics["actor/loss"]


@pytest.mark.long
def test_a_csv_file_goes_on_at_the_checkpoint_without_double_rows(tmp_path: Path):
    run, file = tmp_path / "run", tmp_path / "all.csv"
    with Trainer(
        "awr", "CartPole-v1", config=TINY, logger=CSVLogger(file), run_dir=run, callbacks=stopping_at(50)
    ) as trainer:
        trainer.train(100, log_interval=10)
    # As a kill would leave it: records that no checkpoint counts, the last one torn.
    with file.open("a") as opened:
        width = opened.tell() and len(rows(file)[0])
        opened.write(f"60,41{',' * (width - 2)}\n70,5")
    with Trainer.load(run, logger=CSVLogger(file)) as loaded:
        loaded.train()
    assert steps_of(file) == list(range(10, 101, 10))


def test_a_csv_file_of_something_else_is_not_overwritten(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("a\n1\n")
    with pytest.raises(ConfigError, match="is there already, and not of a run that continues"):
        Trainer("bc", **OFFLINE, logger=CSVLogger(tmp_path / "mine.csv")).train_offline(5)
    assert (tmp_path / "mine.csv").read_text() == "a\n1\n"
    with pytest.raises(ConfigError, match="there is no folder"):
        Trainer("bc", **OFFLINE, logger=CSVLogger(tmp_path / "no" / "mine.csv")).train_offline(5)
    with pytest.raises(ConfigError, match="needs a place: pass run_dir="):
        Trainer("bc", **OFFLINE, logger="csv").train_offline(5)


def test_rows_that_could_not_be_written_are_written_with_the_next(tmp_path: Path):
    folder = tmp_path / "there"
    folder.mkdir()
    file = CSVFile(folder / "m.csv", {"env_steps": 0, "gradient_steps": 0})
    file.add({"env_steps": 1, "gradient_steps": 0, "a/b": 1.5})
    folder.rename(tmp_path / "away")
    for step in (2, 3):
        with pytest.raises(OSError, match="No such file"):
            file.add({"env_steps": step, "gradient_steps": 0, "a/b": 2.5})
    (tmp_path / "away").rename(folder)
    with (folder / "m.csv").open("a") as torn:
        torn.write("2,0,2.5\n3,0")
    file.add({"env_steps": 4, "gradient_steps": 0, "a/b": 3.5})
    file.add({"env_steps": 5, "gradient_steps": 0, "a/b": float("nan")})
    assert (folder / "m.csv").read_text() == (
        "env_steps,gradient_steps,a/b\n1,0,1.5\n2,0,2.5\n3,0,2.5\n4,0,3.5\n5,0,nan\n"
    )


# Services, without a network.


def in_two_parts(run: Path, make: Callable[[], Any]) -> None:
    """Learn from data, then in an environment; stop, load, and go on."""
    settings: Any = {"dataset": "cartpole-random", "config": TINY, "run_dir": run}
    with Trainer("awr", "CartPole-v1", **settings, logger=make(), callbacks=stopping_at(20)) as trainer:
        trainer.train_offline(20, log_interval=20)
        trainer.train(40)
    with Trainer.load(run, logger=make()) as loaded:
        loaded.train()


@pytest.mark.long
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    from wandb_records import runs

    monkeypatch.setenv("WANDB_SILENT", "true")
    in_two_parts(tmp_path / "run", lambda: WandbLogger("tests", mode="offline", dir=str(tmp_path)))
    first, second = runs(tmp_path)
    assert first.id == second.id
    assert first.config["config"]["hidden"] == 8
    assert first.axes["*"] == "env_steps"
    assert first.axes["offline/*"] == "gradient_steps"
    offline, online = first.history
    assert (offline["gradient_steps"], online["env_steps"]) == (20, 20)
    assert "offline/actor/loss" in offline
    assert "actor/loss" not in offline
    assert {"actor/loss", "offline/actor/loss"} & online.keys() == {"actor/loss"}
    assert [record["env_steps"] for record in second.history] == [40]


@pytest.mark.slow  # Half a minute, for the tables of its database.
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow")
def test_mlflow_with_sqlite(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        in_two_parts(tmp_path / "first", lambda: MLflowLogger("tests", tracking_uri=uri))
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("tests")
        assert experiment
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.run_name == "first"
        assert run.info.status == "FINISHED"
        assert run.data.params["config.hidden"] == "8"
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        assert [metric.step for metric in history["actor/loss"]] == [20, 40]
        assert [metric.step for metric in history["offline/actor/loss"]] == [20]

        logger = MLflowLogger("tests", tracking_uri=uri)
        run = {"run_dir": None, "env": "A/B:C", "dataset": None, "algorithm": "awr", "seed": 1}
        assert logger.open(run, "0" * 32) not in (None, "0" * 32)


def test_trackio_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    # Read once, when it is imported.
    folder = Path(os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp()))
    pytest.importorskip("trackio")
    in_two_parts(tmp_path / "first", lambda: TrackioLogger("tests"))
    with sqlite3.connect(folder / "tests.db") as database:
        found = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    names, steps, metrics = zip(*found, strict=True)
    assert len(set(names)) == 1
    assert names[0].startswith("first-")
    assert steps == (20, 20, 40)
    assert ['"offline/actor/loss"' in str(record) for record in metrics] == [True, False, False]


# On the command line.


@pytest.mark.long
def test_the_command_line_takes_several_loggers_and_resume_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from rlox.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(LOGGERS, "diary", Diary)
    small = "--hidden 8 --batch-size 16 --learning-starts 20 --log-interval 20 --run-dir run --n-eval-episodes 1"
    main(f"train awr --env CartPole-v1 --total-timesteps 40 --logger csv diary {small}".split())
    assert steps_of(tmp_path / "run" / "metrics.csv") == [20, 40]
    main(["resume", "run", "--total-timesteps", "60", "--logger", "csv", "--logger", "diary"])
    assert steps_of(tmp_path / "run" / "metrics.csv") == [20, 40, 60]
    capsys.readouterr()
    main(["resume", "run", "--total-timesteps", "80"])
    assert "It was logged to csv too: --logger csv goes on there." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(f"train awr --env CartPole-v1 --total-timesteps 40 --logger wandbb {small}".split())
    assert "'wandbb' is not a logger. Did you mean 'wandb'?" in capsys.readouterr().err
