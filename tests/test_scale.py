"""Runs as tasks of Ray: the same bits as a run here, also if workers and machines are taken away from them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlox import Trainer, scale
from rlox.cli import main
from rlox.engine import make_engine
from rlox.errors import ConfigError
from rlox.launch import Launch
from rlox.plan import Job, Plan
from rlox.processes import last_record
from rlox.runs.interrupts import Interrupts
from rlox.runs.logs import FINISHED, LOG
from rlox.runs.storage import Storage
from rlox.scale import STOPPED, LostError, Trials, run_trial
from schedules import differences, result

# Whatever Ray starts here keeps to the loopback address.
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
os.environ.setdefault(LOOPBACK, "0")
ray = pytest.importorskip("ray")

TINY = {"hidden": 8, "batch_size": 16, "learning_starts": 20, "n_eval_episodes": 1}
SHORT = Plan({"bc": {}, "awr": {}}, ["CartPole-v1"], seeds=[3], shared={**TINY, "total_timesteps": 60})
OFTEN = {"total_timesteps": 1_500, "eval_interval": 1_000, "checkpoint_interval": 50, "log_interval": 25}
SLEEPY, PLACE = "sleepy:Sleepy-v0", "sleepy-Sleepy-v0"
LONG = SHORT._replace(envs=[SLEEPY], shared={**TINY, **OFTEN})
HERE = Path(__file__).parent
"""Where a run finds that module."""
PATIENCE = 600.0
"""Seconds: Ray takes three to start on a machine that does nothing else."""


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's default for a Ray of one's own, without a file in the home folder."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)


def serial(job: Job, folder: Path) -> dict[str, Any]:
    """What a run ends with that is trained here, in one go."""
    with Trainer.from_spec(job.spec, run_dir=folder) as trainer:
        trainer.train()
    return result(folder)


def wait(until: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def steps(folder: Path) -> int:
    return (last_record(folder) or {"env_steps": 0})["env_steps"]


def processes_of(run: str) -> tuple[int, int, int]:
    """Return the process of a run (``LABEL/PLACE/SEED``), the worker of Ray that started it, and the node's."""
    table = subprocess.run(["ps", "-ewwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in table.splitlines()]
    parents = {int(row[0]): int(row[1]) for row in rows}
    for row in rows:
        if "rlox.processes" in row and row[row.index("rlox.processes") + 3].endswith(run):
            pid = int(row[0])
            return pid, parents[pid], parents.get(parents[pid], 0)
    raise AssertionError(f"{run} is not running")


def start(*arguments: str, script: str = "from rlox.cli import main; main()", **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error::FutureWarning", "-c", script, *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        out, error = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    return out, error


# A task, without Ray


def begin(tmp_path: Path, plan: Plan = SHORT) -> tuple[Job, Launch]:
    job = plan.jobs(tmp_path / "out")[0]
    launch = Launch.of([job])
    launch.write()
    return job, launch


@contextlib.contextmanager
def once_at(step: int, job: Job, mirror: Storage, do: Callable[[], object]) -> Iterator[None]:
    """Do something when a run that this thread waits for has come so far; its log is read from the storage."""

    def look(_: int, __: object) -> None:
        mirror.pull(lambda name: name == "metrics.jsonl")
        if steps(job.folder) >= step:
            do()
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.5)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_folder_that_is_not_shared_is_said(tmp_path: Path):
    launch = Launch.of(SHORT.jobs(tmp_path / "out")[:1])
    told = run_trial(launch, None, Path.cwd())
    assert told is not None
    assert "is not shared with" in told
    assert "--storage" in told


@pytest.mark.long
def test_a_run_that_fails_by_itself_is_told_in_its_own_words(tmp_path: Path):
    _, launch = begin(tmp_path)
    told = run_trial(launch._replace(modules=("no_such_module",)), f"file://{tmp_path}/kept", Path.cwd())
    assert told is not None
    assert "there is no module 'no_such_module'" in told


@pytest.mark.slow
def test_a_task_goes_on_from_the_storage_however_it_was_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    # On a busy machine a copy may take half a second, and the run would be over before the next.
    monkeypatch.setattr(scale, "SHARE", 1.0)
    job, launch = begin(tmp_path, LONG)
    address = f"file://{tmp_path}/kept"
    mirror = Storage(address, job.folder)

    def kill() -> None:
        os.kill(processes_of(f"bc/{PLACE}/3")[0], signal.SIGKILL)

    with once_at(200, job, mirror, kill), pytest.raises(LostError, match="SIGKILL ended it"):
        run_trial(launch, address, HERE)
    # As Ray cancels a task, and as a machine ends that is taken away.
    with once_at(500, job, mirror, lambda: signal.raise_signal(signal.SIGINT)):
        assert run_trial(launch, address, HERE) == STOPPED
    mirror.pull()
    assert 500 <= steps(job.folder) < 1_500
    assert re.search(r"Stopped at step [\d,]+ and saved", launch.folder.with_suffix(LOG).read_text())
    with once_at(800, job, mirror, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(SystemExit):
        run_trial(launch, address, HERE)
    assert not launch.folder.with_suffix(FINISHED).exists()
    assert run_trial(launch, address, HERE) is None
    mirror.pull()
    assert "Continuing" in launch.folder.with_suffix(LOG).read_text()
    assert launch.folder.with_suffix(FINISHED).exists()
    assert differences(result(job.folder), serial(job, tmp_path / "serial")) == []
    assert list(scratch.iterdir()) == []


def start_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> list[subprocess.Popen[Any]]:
    """Let launches start this Python in place of a run; returns what was started."""
    started: list[subprocess.Popen[Any]] = []

    def start(*_: object, **__: object) -> subprocess.Popen[Any]:
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        return started[-1]

    monkeypatch.setattr(Launch, "start", start)
    return started


def test_a_copy_that_fails_leaves_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, launch = begin(tmp_path)
    started = start_instead(monkeypatch, "import time; time.sleep(1)")
    turns: list[int] = []

    def push(_: Storage) -> bool:
        turns.append(1)
        if len(turns) == 1:
            raise ValueError("'link' is not in the folder")
        return True

    monkeypatch.setattr(Storage, "push", push)
    assert run_trial(launch, f"file://{tmp_path}/kept", Path.cwd()) is None
    assert [process.returncode for process in started] == [0]
    assert len(turns) > 1


def test_a_run_is_ended_before_its_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, launch = begin(tmp_path)
    started = start_instead(monkeypatch, "import time; time.sleep(60)")

    def push(_: Storage) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(Storage, "push", push)
    with pytest.raises(KeyboardInterrupt):
        run_trial(launch, f"file://{tmp_path}/kept", Path.cwd())
    (process,) = started
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("at", ["fetch", "start", "task"])
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"gamma": 0.5}, "gamma=0.99, not 0.5"),
        ({"gamma": 0.5, "total_timesteps": 90}, "gamma=0.99, not 0.5"),
        ({"total_timesteps": 90, "eval_interval": 30}, None),
    ],
)
def test_a_storage_that_has_a_run_of_other_settings_is_refused(
    at: str, other: dict[str, Any], told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address = f"file://{tmp_path}/kept"
    job, _ = begin(tmp_path / "first")
    job.folder.mkdir()
    (job.folder / "metrics.jsonl").write_text("{}\n")
    kept = Storage(address, job.folder)
    kept.begin()
    kept.push()
    files = sorted((tmp_path / "kept").rglob("*"))
    plan = SHORT._replace(shared={**SHORT.shared, **other})
    engine, (second, _) = Trials("auto", storage=address), plan.jobs(tmp_path / "second")
    monkeypatch.setattr(engine, "_ray", Asleep())
    start_instead(monkeypatch, "")
    do: dict[str, Callable[[], object]] = {
        "fetch": lambda: engine.fetch([second]),
        "start": lambda: engine.start(second),
        "task": lambda: run_trial(Launch.of([second]), address, Path.cwd()),
    }
    if told is None:
        do[at]()
        return
    run = r"'bc/CartPole-v1/3'"
    with pytest.raises(ConfigError, match=rf"storage '{address}' has a run {run} with {told}: .* \(--storage\)\.$"):
        do[at]()
    assert sorted((tmp_path / "kept").rglob("*")) == files
    assert not second.folder.parent.exists(), "nothing of it was brought"


def test_what_a_task_refused_is_not_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine, (job, _) = Trials("auto", storage=f"file://{tmp_path}/kept"), SHORT.jobs(tmp_path / "out")
    why = ConfigError("it has another")

    class Refusing(Asleep):
        exceptions = ray.exceptions

        def wait(self, results: list[str], **_: object) -> tuple[list[str], list[str]]:
            return results, []

        def get(self, result: str) -> None:
            raise ray.exceptions.RayTaskError("run_trial", "", why)

    def bring(_: Job) -> None:
        raise AssertionError

    monkeypatch.setattr(engine, "_ray", Refusing())
    monkeypatch.setattr(engine, "_bring", bring)
    engine._running["task"] = job
    assert engine.ended() == [(job, "it has another")]


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"storage 's3://b' is for runs on other machines"):
        make_engine(storage="s3://b")
    with pytest.raises(ConfigError, match="processes=0 must be"):
        make_engine(ray="local", processes=0)
    with pytest.raises(ConfigError, match="storage 'nosuch://b' cannot be used"):
        make_engine(ray="local", storage="nosuch://b")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"need the extra rlox\[ray\]: pip install '\.\[ray\]' in a clone"):
        make_engine(ray="local")


def test_only_one_file_imports_ray():
    source = Path(__file__).parents[1] / "src" / "rlox"
    found = [
        path.name for path in source.rglob("*.py") if "import ray" in (text := path.read_text()) or '"ray")' in text
    ]
    assert found == ["scale.py"]


# Several seeds of one run


def test_flags_of_several_runs_need_seeds(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    command = ["train", "bc", "--env", "CartPole-v1", "--total-timesteps", "60", "--run-dir", str(tmp_path / "out")]
    for more, told in (
        (
            ["--ray", "local"],
            "--ray local has no effect on one run without collectors: add --n-workers N",
        ),
        (["--seeds", "0"], "seeds=0 must be a whole number of at least 1."),
        (["--seeds", "2", "--logger", "csv"], "--logger csv has no effect with --seeds."),
        (["--seeds", "2", "--storage", "s3://b"], "storage 's3://b' is for runs on other machines"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *more])
        assert told in capsys.readouterr().err


@pytest.mark.long
def test_seeds_of_a_run_are_runs_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    command = ["train", "bc", "--env", "CartPole-v1", "--total-timesteps", "60", *flags, "--run-dir", str(out)]
    main([*command, "--seeds", "2", "--seed", "3", "--eval-interval", "30", "--processes", "1"])
    told = capsys.readouterr().out
    assert "| CartPole-v1 | bc   |    2 |" in told
    job = Plan(
        {"bc": {}}, ["CartPole-v1"], seeds=[4], shared={**TINY, "total_timesteps": 60, "eval_interval": 30}
    ).jobs(out)[0]
    assert sorted(path.name for path in job.folder.parent.glob("*.finished")) == ["3.finished", "4.finished"]
    assert differences(result(job.folder), serial(job, tmp_path / "serial")) == []


# Ray


class Asleep:
    """In place of a cluster that has no cores until there are tasks for them."""

    def __init__(self, **resources: float):
        self.resources = resources

    def remote(self, *_: object, **__: object) -> Any:
        return self

    options = remote

    def cluster_resources(self) -> dict[str, float]:
        return self.resources


def test_a_cluster_without_cores_is_given_a_run_to_grow_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine, (job, other) = Trials("auto"), SHORT.jobs(tmp_path)
    monkeypatch.setattr(engine, "_ray", Asleep())
    assert engine.n_free == 1
    engine._running["task"] = job
    assert engine.n_free == 0
    monkeypatch.setattr(engine, "_ray", Asleep(CPU=4.0))
    assert engine.n_free == 3
    engine._running["other"] = other
    assert engine.n_free == 2


class Interrupting:
    """In place of a Ray during whose start signals come, and which sets a handler of its own."""

    def __init__(self, n: int):
        self.n = n

    def init(self, **_: object) -> None:
        for _turn in range(self.n):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_ctrl_c_while_ray_starts_is_noted_and_a_second_one_ends_it():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts() as interrupts:
        scale._connect(Interrupting(1), "local", 1)
        assert interrupts.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(KeyboardInterrupt), Interrupts():
        scale._connect(Interrupting(2), "local", 1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


SMOKE = """
import json, signal, sys
from pathlib import Path
from rlox.compare import run_jobs
from rlox.plan import Plan
from rlox.scale import Trials

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
found = {}


class Watched(Trials):
    def __enter__(self):
        before = list(map(signal.getsignal, NUMBERS))
        super().__enter__()
        import ray
        from ray._common.usage import usage_lib

        found["handlers"] = before == list(map(signal.getsignal, NUMBERS))
        found["store"], found["cores"] = map(ray.cluster_resources().get, ("object_store_memory", "CPU"))
        found["usage"], found["at"] = usage_lib.usage_stats_enabled(), ray.nodes()[0]["NodeManagerAddress"]
        return self


out, plan = Path(sys.argv[1]), Plan(**json.loads(sys.argv[2]))
outcome = run_jobs(plan.jobs(out), out, engine=Watched("local", processes=2), progress=True)
import ray
print(json.dumps({**found, "finished": [job.label for job in outcome.finished], "left": ray.is_initialized()}))
"""


@pytest.mark.long
def test_runs_on_a_ray_of_this_machine_have_the_bits_of_runs_here(tmp_path: Path):
    out = tmp_path / "out"
    env = {name: value for name, value in os.environ.items() if name != LOOPBACK}
    told, error = finish(start(str(out), json.dumps(SHORT._asdict()), script=SMOKE, env=env))
    assert told, error
    found = json.loads(told.splitlines()[-1])
    assert found.pop("store") <= 100 * 2**20
    assert found == {
        "handlers": True,
        "cores": 2.0,
        "usage": False,
        "at": "127.0.0.1",
        "finished": ["bc", "awr"],
        "left": False,
    }
    assert "2/2" in error, "what has ended is said"
    for job in SHORT.jobs(out):
        assert differences(result(job.folder), serial(job, tmp_path / "serial" / job.label)) == []


NODE: dict[str, Any] = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20, "include_dashboard": False}


def patiently(make: Callable[[], Any]) -> Any:
    """Make something of Ray that has half a minute to start in, which is not enough on a busy machine."""
    for left in (2, 1, 0):
        try:
            return make()
        except Exception:
            if not left:
                raise
    return None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores, on which the caller's own process is, and as many machines as a test adds."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        from ray.cluster_utils import Cluster

        made = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE}))
        try:
            yield made
        finally:
            made.shutdown()


def write_plan(folder: Path) -> Path:
    numbers = "".join(f"{name} = {value}\n" for name, value in LONG.shared.items())
    file = folder / "plan.toml"
    file.write_text(f"seeds = [3]\n{numbers}[settings.bc]\n[settings.awr]\n")
    return file


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kept", ["shared", "storage"])
def test_a_worker_and_a_machine_that_are_taken_away_change_nothing(cluster: Any, kept: str, tmp_path: Path):
    nodes = [patiently(lambda: cluster.add_node(num_cpus=1, **NODE)) for _ in range(2)]
    out = tmp_path / "out"
    command = ["compare", "--config", str(write_plan(tmp_path)), "--env", SLEEPY, "--output", str(out)]
    command += ["--ray", cluster.address]
    command += ["--storage", f"file://{tmp_path}/kept"] if kept == "storage" else []
    driver = start(*command, cwd=HERE, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
    jobs = {job.label: job for job in LONG.jobs(out)}
    try:
        wait(lambda: steps(jobs["awr"].folder) >= 200 or driver.poll() is not None, "awr has not begun")
        run, worker, _ = processes_of(f"awr/{PLACE}/3")
        for pid in (worker, run):
            os.kill(pid, signal.SIGKILL)
        wait(lambda: steps(jobs["bc"].folder) >= 600 or driver.poll() is not None, "bc has not begun")
        _, _, raylet = processes_of(f"bc/{PLACE}/3")
        lost = next(node for node in nodes if raylet in pids(node))
        cluster.remove_node(lost, allow_graceful=False)
        _, error = finish(driver)
    finally:
        driver.kill()
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node)
    assert driver.returncode == 0, error
    assert "2/2" in error
    for label, job in jobs.items():
        log = job.folder.with_suffix(LOG).read_text()
        assert "Continuing" in log, log
        assert "after 0 environment steps" not in log
        assert differences(result(job.folder), serial(job, tmp_path / "serial" / label)) == []


def pids(node: Any) -> list[int]:
    return [info.process.pid for own in node.all_processes.values() for info in own]


TUNE = """
import json, sys, rlox
from test_scale import TINY
found = rlox.tune(
    "bc", "CartPole-v1", trials=3, total_timesteps=60, eval_interval=20, n_eval_episodes=1, seed=3, processes=1,
    config={name: value for name, value in TINY.items() if name != "n_eval_episodes"}, **json.loads(sys.argv[1])
)
print(json.dumps([[dict(trial.settings), trial.outcome] for trial in found.trials]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_search_on_a_cluster_is_the_search_here(cluster: Any, tmp_path: Path):
    path = os.pathsep.join([str(HERE), *sys.path])
    found = []
    patiently(lambda: cluster.add_node(num_cpus=1, **NODE))
    for name, where in (
        ("here", {}),
        ("there", {"ray": cluster.address, "storage": f"file://{tmp_path}/kept"}),
    ):
        arguments = json.dumps({"output": str(tmp_path / name), **where})
        told, error = finish(start(arguments, script=TUNE, env={**os.environ, "PYTHONPATH": path}))
        assert told, error
        found.append(json.loads(told.splitlines()[-1]))
    assert len(found[0]) == 3
    assert found[0] == found[1]
    assert list((tmp_path / "kept").glob("trial-0002/CartPole-v1/3/checkpoint*"))


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_runs_on_ray_with_a_checkpoint_each(tmp_path: Path):
    out = tmp_path / "out"
    plan = ["--config", str(write_plan(tmp_path)), "--env", SLEEPY, "--output", str(out)]
    driver = start("compare", *plan, "--total-timesteps", "1000000", "--ray", "local", "--processes", "2",
                   cwd=HERE, start_new_session=True)  # fmt: skip
    jobs = LONG.jobs(out)
    for job in jobs:
        wait(lambda job=job: steps(job.folder) >= 100 or driver.poll() is not None, f"{job.label} has not begun")
    # A terminal sends it to all that it started, Ray's own processes too.
    os.killpg(driver.pid, signal.SIGINT)
    _, error = finish(driver)
    assert driver.returncode == 130, error
    assert "Stopped: 0 of 2 runs are finished. The same command goes on with the rest." in error
    for job in jobs:
        assert "Stopped at step" in job.folder.with_suffix(LOG).read_text()
        assert (job.folder / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_an_address_without_a_ray_is_one_line(tmp_path: Path):
    command = ["compare", "--env", "CartPole-v1", "--algorithms", "bc", "--total-timesteps", "60"]
    driver = start(*command, "--output", str(tmp_path / "out"), "--ray", "127.0.0.1:9")
    _, error = finish(driver)
    assert driver.returncode == 2
    assert "rlox: error: There is no Ray at '127.0.0.1:9' that can be joined" in error
    assert "Traceback" not in error
