"""Pictures of runs: what is drawn, and what cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlox.cli import main
from rlox.errors import ConfigError
from rlox.runs.history import find_runs
from rlox.runs.plots import COLOURS, figure, plot
from rlox.runs.statistics import curve
from written import evaluated, records_of, write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder of two groups, of three seeds and one, in one environment, and of one run in another."""
    for seed in range(3):
        write_run(tmp_path / "runs" / f"a{seed}", evaluated([1.0, 2.0 + seed, 5.0 - seed]), seed=seed)
    write_run(tmp_path / "runs" / "b", evaluated([0.0, 1.0], weight__mean=2.0), config={"beta": 3.0})
    write_run(tmp_path / "runs" / "c", records_of(4, rollout__episode_return=7.0), env="Pendulum-v1")
    return tmp_path / "runs"


def test_a_picture_has_a_panel_for_each_environment_and_a_line_for_each_group(runs: Path):
    found = find_runs([runs])
    made = figure(found)
    assert [panel.get_title(loc="left") for panel in made.axes] == ["CartPole-v1", "Pendulum-v1"]
    cart, pendulum = made.axes
    assert cart.get_xlabel() == pendulum.get_xlabel() == "environment steps"
    assert cart.get_ylabel() == "mean return of 20 evaluation episodes"
    assert pendulum.get_ylabel() == "mean return of the last 100 training episodes"
    thick = [line for line in cart.get_lines() if line.get_linewidth() == 2]
    thin = [line for line in cart.get_lines() if line.get_linewidth() < 1]
    expected = curve(found[:3])
    np.testing.assert_array_equal(thick[0].get_xdata(), expected.steps)
    np.testing.assert_array_equal(thick[0].get_ydata(), expected.value)
    np.testing.assert_array_equal([line.get_ydata() for line in thin], [run.returns.values for run in found[:3]])
    assert [line.get_color() for line in thick] == list(COLOURS[:2])
    (band,) = cart.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    assert corners[:, 1].min() == pytest.approx(expected.low.min())
    assert corners[:, 1].max() == pytest.approx(expected.high.max())
    labels = [text.get_text() for text in made.legends[0].get_texts()]
    assert labels == ["awr, beta=1.0 (3 seeds)", "awr, beta=3.0 (1 seed)", "awr (1 seed)"]


def test_a_group_has_the_same_colour_in_every_environment(tmp_path: Path):
    for env, betas in (("A", (1.0, 2.0)), ("B", (2.0, 3.0))):
        for beta in betas:
            write_run(tmp_path / env / f"{beta}", evaluated([1.0, 2.0]), env=env, config={"beta": beta})
    first, second = figure(find_runs([tmp_path])).axes
    assert first.get_lines()[1].get_color() == second.get_lines()[0].get_color() == COLOURS[1]
    assert second.get_lines()[1].get_color() == COLOURS[2]


def test_a_group_with_more_seeds_in_one_environment_than_in_another_is_named_once(tmp_path: Path):
    for env, seeds in (("A", range(3)), ("B", range(2))):
        for seed in seeds:
            write_run(tmp_path / env / f"{seed}", evaluated([1.0, 2.0]), env=env, seed=seed)
    (name,) = figure(find_runs([tmp_path])).legends[0].get_texts()
    assert name.get_text() == "awr (2 to 3 seeds)"


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "PNG"])
def test_pictures_are_written_whole(runs: Path, tmp_path: Path, ending: str):
    file = plot(find_runs([runs]), tmp_path / f"out.{ending}")
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending.lower()]
    assert file.read_bytes().startswith(begins)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == [f"out.{ending}"]


def test_another_metric_is_drawn_with_its_name_and_unit(runs: Path):
    panel = figure(find_runs([runs / "b"]), "weight/mean").axes[0]
    assert panel.get_ylabel() == "weight/mean (weight)"
    np.testing.assert_array_equal(panel.get_lines()[0].get_ydata(), [2, 2])


def test_returns_are_drawn_over_seconds_too(runs: Path):
    found = find_runs([runs])[:3]
    (panel,) = figure(found, over="seconds").axes
    assert panel.get_xlabel() == "seconds of training, evaluations included"
    *thin, thick = panel.get_lines()
    for line, run in zip(thin, found, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), run.returns.seconds)
        np.testing.assert_array_equal(line.get_ydata(), run.returns.values)
    expected = curve(found, lambda run: run.returns._replace(steps=run.returns.seconds))
    assert not np.array_equal(expected.steps, curve(found).steps)
    np.testing.assert_array_equal(thick.get_xdata(), expected.steps)
    np.testing.assert_array_equal(thick.get_ydata(), expected.value)


def test_gradient_steps_and_environment_steps_have_panels_of_their_own(tmp_path: Path):
    offline = [{**record, "env_steps": 0} for record in evaluated([1.0, 2.0, 3.0])]
    online = [{**record, "gradient_steps": 2000} for record in evaluated([4.0, 5.0])]
    about: dict[str, Any] = {"dataset": "logs"}
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", offline, **about)
    write_run(tmp_path / "c", [*offline, *online], algorithm="iql", **about)
    write_run(tmp_path / "d", [*offline, *records_of(2, actor__loss=1.0)], algorithm="crr", **about)
    found = find_runs([tmp_path])
    first, second = figure(found).axes
    assert [panel.get_title(loc="left") for panel in (first, second)] == ["logs", "logs"]
    assert (first.get_xlabel(), second.get_xlabel()) == ("gradient steps", "environment steps")
    assert [list(np.asarray(line.get_xdata())) for line in first.get_lines()] == [[0, 1000, 2000], [0, 1000, 2000]]
    assert [list(np.asarray(line.get_xdata())) for line in second.get_lines()] == [[1000, 2000]]
    assert len(figure(found, over="seconds").axes) == 1


def test_names_of_files_are_shown_as_they_are(tmp_path: Path):
    write_run(tmp_path / "$", evaluated([1.0]), algorithm="_$\\frac", env="$x^")
    made = figure(find_runs([tmp_path]))
    assert made.axes[0].get_title(loc="left") == "$x^"
    assert made.legends[0].get_texts()[0].get_text() == "$\\frac (1 seed)"
    plot(find_runs([tmp_path]), tmp_path / "x.png")


@pytest.mark.long
def test_the_command_writes_beside_the_run_and_says_where(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    main(["plot", "runs"])
    main(["plot", "runs/b", "runs/c", "--metric", "eval/mean_reward"])
    main(["plot", "runs/b", "--metric", "weight/mean", "--over", "seconds", "--output", "b.svg"])
    assert capsys.readouterr().out.splitlines() == [
        "Wrote runs/curves.png, of 5 runs.",
        "Wrote curves.png, of 2 runs.",
        "Wrote b.svg.",
    ]
    assert Path("runs/curves.png").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["runs/b", "--output", "a.gif"], "'a.gif' does not end in .png, .svg or .pdf: name such a file."),
        (["runs/b", "--output", "no/a.png"], "'no/a.png' cannot be written: there is no folder 'no'. Make it first."),
        (
            ["runs/b", "--metric", "weight/men"],
            "'weight/men' is not a metric of these runs. Did you mean 'weight/mean'?",
        ),
        (["empty"], "'empty' is not the folder of a run: it has no config.json. The runs in '.' are new."),
        ([], "Name the folder of a run, or one that has runs below it."),
        (["new"], "'new' has no records of returns yet: wait for the first ones (--log-interval)."),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    told: str,
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_run(Path("new"))
    with pytest.raises(SystemExit) as stopped:
        main(["plot", *args])
    assert (stopped.value.code, capsys.readouterr().err) == (2, f"rlox: error: {told}\n")


def test_without_matplotlib_the_extra_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ConfigError, match=r"^Pictures need the extra rlox\[plots\]: pip install '\.\[plots\]' in a clone of rlox\.$"
    ):
        figure(find_runs([runs]))


@pytest.mark.long
def test_drawing_needs_no_jax(runs: Path):
    code = f"""
import sys
from rlox.cli import main
main(["plot", {str(runs)!r}])
assert not {{"jax", "matplotlib.pyplot"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trainer_draws_its_run_and_jupyter_shows_it(tmp_path: Path):
    from rlox import Trainer

    config = {"hidden": 8, "batch_size": 16, "learning_starts": 20}
    with Trainer("awr", "CartPole-v1", config=config, run_dir=tmp_path / "run") as trainer:
        with pytest.raises(ConfigError, match="has no records yet: train first"):
            trainer.plot()
        trainer.train(100, log_interval=50, eval_interval=50, n_eval_episodes=1)
        made = trainer.plot()
        (line,) = made.axes[0].get_lines()
        assert np.asarray(line.get_ydata())[-1] == trainer.last_metrics["eval/mean_reward"]
        show: Any = made
        assert show._repr_png_().startswith(b"\x89PNG")
        assert trainer.plot("actor/loss").axes[0].get_ylabel() == "actor/loss (nats, weighted)"
    with Trainer("awr", "CartPole-v1") as trainer, pytest.raises(ConfigError, match="run_dir='runs/1'"):
        trainer.plot()
