"""Where settings come from: flags over a file over a preset over the defaults."""

import dataclasses
import inspect
import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
import tomli_w
from cyclopts import App, CoercionError, Parameter

from rlox import ALGORITHMS, Trainer
from rlox.cli import main
from rlox.cli.options import Options, setting_parameters
from rlox.cli.sources import apply_file
from rlox.cli.values import check_whole_numbers
from rlox.errors import ConfigError, suggest
from rlox.presets import preset_settings

Printed = Any


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """Return what gives the values that ``--print-config`` prints; run.toml is in the current directory."""
    monkeypatch.chdir(tmp_path)

    def resolve(*args: str, algorithm: str = "awr", file: str = "") -> dict[str, Any]:
        Path("run.toml").write_text(file)
        main(["train", algorithm, *args, "--print-config"])
        return tomllib.loads(capsys.readouterr().out)

    return resolve


HERE = ["--env", "CartPole-v1", "--total-timesteps", "10"]
FILE = ["--config", "run.toml"]


def test_flags_are_over_the_file_over_the_preset_over_the_defaults(printed: Printed):
    tuned = preset_settings("awr", "tuned", "CartPole-v1", discrete=True)
    file = 'preset = "tuned"\nenv = "CartPole-v1"\nbeta = 0.25\nn-envs = 4\ntotal_timesteps = 99\n'
    found = printed(*FILE, "--beta", "2", "--total-timesteps", "10", file=file)
    assert (found["beta"], found["total_timesteps"]) == (2.0, 10)
    assert (found["n_envs"], found["preset"], found["env"]) == (4, "tuned", "CartPole-v1")
    assert (found["td_lambda"], found["rollout_steps"]) == (tuned["td_lambda"], tuned["rollout_steps"])
    assert (found["gamma"], found["seed"]) == (0.99, 42)


def test_the_preset_is_that_of_the_environment_that_is_parsed(printed: Printed):
    for args in (["--preset", "tuned", "--env", "Pendulum-v1"], ["--env=Pendulum-v1", "--preset=tuned"]):
        found = printed(*args, "--total-timesteps", "10")
        assert (found["gamma"], found["value_scale"]) == (0.95, 20.0)
    found = printed("--dataset", "pendulum-medium", "--preset", "tuned")
    assert (found["gamma"], found["value_scale"], found["env"]) == (0.95, 20.0, "Pendulum-v1")


def test_booleans_lists_and_none_are_overridden_too(printed: Printed):
    file = 'layer_norm = true\nhidden = [8, 8]\nmax_grad_norm = 0.5\nlearning_rate = 1\noptimizer = "sgd"\n'
    found = printed(*HERE, *FILE, file=file)
    assert (found["layer_norm"], found["hidden"], found["max_grad_norm"]) == (True, [8, 8], 0.5)
    assert (found["learning_rate"], found["optimizer"]) == (1.0, "sgd")
    flags = ["--no-layer-norm", "--hidden", "16", "8", "--max-grad-norm", "none", "--optimizer", "adam"]
    found = printed(*HERE, *FILE, *flags, file=file)
    assert (found["layer_norm"], found["hidden"], found["max_grad_norm"]) == (False, [16, 8], "none")
    assert found["optimizer"] == "adam"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Width:
    """Settings of nothing."""

    hidden: int | tuple[int, ...] = 256
    """A width, or one for each layer."""
    kernel: str | None = "rbf"
    """A name, or none."""


@pytest.mark.parametrize(
    ("args", "file", "found"),
    [
        (["--hidden", "64"], "", 64),
        (["--hidden=64"], "", 64),
        (["--hidden", "64", "32"], "", (64, 32)),
        (["--hidden", "64", "32", "16"], "", (64, 32, 16)),
        ([], "hidden = 8", 8),
        ([], "hidden = [8]", (8,)),
        ([], "hidden = [8, 4]", (8, 4)),
        (["--hidden", "64"], "hidden = [8]", 64),
        ([], "hidden = [8.5]", None),
        (["--hidden", "64"], "hidden = [8, 4]", 64),
        ([], "hidden = 8.5", None),
        (["--hidden", "64.5"], "", None),
        (["--hidden", "64", "x"], "", None),
    ],
)
def test_a_setting_that_is_a_number_or_several(tmp_path: Path, args: list[str], file: str, found: Any):
    if found is None:
        with pytest.raises((CoercionError, ConfigError), match="hidden"):
            given(tmp_path, args, file)
    else:
        assert given(tmp_path, args, file)["hidden"] == found


@pytest.mark.parametrize(
    ("args", "file", "found"),
    [
        (["--kernel", "none"], "", None),
        (["--kernel", "linear"], 'kernel = "none"', "linear"),
        ([], 'kernel = "none"', None),
        ([], 'kernel = "linear"', "linear"),
    ],
)
def test_none_is_no_text(tmp_path: Path, args: list[str], file: str, found: str | None):
    assert given(tmp_path, args, file)["kernel"] == found


def given(tmp_path: Path, args: list[str], file: str) -> dict[str, Any]:
    """Return what a command of those settings is called with."""
    file_path = tmp_path / "run.toml"
    file_path.write_text(file)
    kind: Any = Width
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = inspect.Parameter(
        "options", keyword, default=Options(), annotation=Annotated[Options, Parameter(name="*")]
    )

    def run(**given: Any) -> Any:
        return given

    run.__signature__ = inspect.Signature([options, *setting_parameters("x", kind)])  # pyright: ignore
    app = App(config=(apply_file, check_whole_numbers), exit_on_error=False, print_error=False)
    app.command(run, name="x")
    return app(["x", "--config", str(file_path), *args], result_action="return_value")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_printed_is_the_same_run_again(printed: Printed, algorithm: str, capsys: Any):
    args = [*HERE, "--seed", "3", "--gamma", "0.123456789012345", "--dataset", "cartpole-medium", "--log-interval", "7"]
    first = printed(*args, algorithm=algorithm)
    text = Path("run.toml")
    main(["train", algorithm, *args, "--print-config"])
    text.write_text(capsys.readouterr().out)
    main(["train", algorithm.upper(), "--config", "run.toml", "--print-config"])
    again = capsys.readouterr().out
    assert again == text.read_text()
    settings = {field.name for field in dataclasses.fields(ALGORITHMS[algorithm].config)}
    run = {"algorithm", "env", "dataset", "seed", "total_timesteps", "gradient_steps", "n_eval_episodes"}
    assert settings | run <= first.keys()
    assert first["gamma"] == 0.123456789012345
    assert not Path("runs").exists()


def test_what_is_printed_has_the_flags_beside_the_run_that_were_given(printed: Printed):
    names = {"run_dir", "logger", "resume", "seeds", "processes", "ray", "storage"}
    assert not names & printed(*HERE).keys()
    where = ["--run-dir", "here", "--processes", "2", "--ray", "local", "--storage", "s3://b"]
    found = printed(*HERE, "--seeds", "3", *where, "--logger", "csv", "wandb", "--resume")
    assert {name: found.pop(name) for name in sorted(names)} == {
        "logger": ["csv", "wandb"],
        "processes": 2,
        "ray": "local",
        "resume": True,
        "run_dir": "here",
        "seeds": 3,
        "storage": "s3://b",
    }
    text = tomli_w.dumps({"seeds": 3, "logger": ["csv", "wandb"], "run_dir": "here", "resume": True, **found})
    again = printed(*FILE, file=text)
    assert (again["seeds"], again["logger"], again["run_dir"], again["resume"]) == (3, ["csv", "wandb"], "here", True)


@pytest.mark.long
def test_a_run_is_trained_from_a_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(
        'algorithm = "awr"\nenv = "CartPole-v1"\ntotal_timesteps = 60\nbatch_size = 16\nseed = 5\n'
        'learning_starts = 50\nn_eval_episodes = 1\nrun_dir = "here"\npreset = "paper"\nrollout_steps = "none"\n'
        "td_lambda = 0\nn_actor_updates = 1\nhidden = 8\n"
    )
    main(["train", "awr", "--config", "run.toml"])
    trainer = Trainer.load("here")
    assert (trainer.spec.seed, trainer.spec.preset, trainer.env_steps) == (5, "paper", 60)
    config: Any = trainer.config
    assert (config.rollout_steps, config.hidden) == (None, 8)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("bata = 1", ["'bata' is not a setting of awr", "Did you mean 'beta'?"]),
        ("total_timestep = 1", ["'total_timestep'", "Did you mean 'total_timesteps'?"]),
        ("net_arch = [64, 64]", ["'net_arch'", "Did you mean 'hidden'?"]),
        ("xyzzy = 1", ["'xyzzy'", "See `rlox train awr --help`"]),
        ('config = "other.toml"', ["'config' is not"]),
        ("print_config = true", ["'print_config' is not"]),
        ('import = "os"', ["'import' is not"]),
        ("[awr]\nbeta = 1", ["[awr] is a table"]),
        ('beta = "hot"', ["beta = 'hot'", "a number"]),
        ('beta = "0.5"', ["beta = '0.5'", "a number"]),
        ("beta = true", ["beta = True", "a number"]),
        ("beta = [1, 2]", ["beta = [1, 2]", "a number"]),
        ("batch_size = 64.0", ["batch_size = 64.0", "a whole number"]),
        ("layer_norm = 1", ["layer_norm = 1", "true or false"]),
        ("env = 3", ["env = 3", "text"]),
        ("hidden = [8, 'x']", ["hidden", "whole number"]),
        ('optimizer = "sdg"', ["optimizer 'sdg'", "'adam' or 'sgd'", "Did you mean 'sgd'?"]),
        ('algorithm = "iql"', ["'iql'", "rlox train iql"]),
        ("beta = ", ["not valid TOML", "line 1"]),
        ("beta = 1\nbeta = 2", ["not valid TOML"]),
        ('env = "my_env:Mine-v0"', ["'my_env:Mine-v0'", "--env my_env:Mine-v0"]),
    ],
    ids=lambda value: value.splitlines()[0] if isinstance(value, str) else "",
)
def test_what_is_wrong_in_a_file_is_one_line_with_its_name(
    file: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(file + "\n")
    told = error_of(["train", "awr", *FILE], capsys)
    assert all(word in told for word in ["'run.toml'", *words]), told


def error_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("rlox: error: ")
    assert err.count("\n") == 1
    return err


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "there is no such file" in error_of(["train", "awr", "--config", str(tmp_path / "no.toml")], capsys)
    assert "cannot be read" in error_of(["train", "awr", "--config", str(tmp_path)], capsys)
    (tmp_path / "latin.toml").write_bytes(b'env = "\xe9"')
    assert "cannot be read" in error_of(["train", "awr", "--config", str(tmp_path / "latin.toml")], capsys)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("net_arch", "hidden"),
        ("ent_coef", "entropy_coef"),
        ("gae_lambda", "td_lambda"),
        ("n_steps", "rollout_steps"),
        ("lr", "learning_rate"),
        ("temperature", "beta"),
        ("lam", "beta"),
        ("polyak", "tau"),
        ("discount", "gamma"),
        ("weight_clip", "max_advantage"),
        ("weight_temp", "beta"),
    ],
)
def test_words_of_other_libraries_are_understood(word: str, meant: str):
    with pytest.raises(ConfigError, match=f"'{word}' is not a setting of awr. Did you mean '{meant}'"):
        Trainer("awr", "CartPole-v1", config={word: 1})
    assert suggest("--" + word.replace("_", "-"), ["--" + meant.replace("_", "-"), "--other"]).count(
        " Did you mean '--"
    )
