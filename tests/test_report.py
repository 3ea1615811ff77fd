"""The report of runs: what it says, that its numbers are those of the runs, and that names in files stay text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlox.cli import main
from rlox.runs.charts import MOST_POINTS, N_POINTS, make_charts
from rlox.runs.diagnosis import diagnose, together
from rlox.runs.history import Run, find_runs, group_runs
from rlox.runs.meanings import SECTIONS, sections
from rlox.runs.plots import COLOURS
from rlox.runs.report import PAGE, contents, duration, lead, number, render, title, write_report
from rlox.runs.statistics import curve, estimate
from rlox.runs.table import thresholds_of
from written import append, evaluated, records_of, write_run

NASTY = "<img src=x onerror=alert(1)>\u2028</script><!-- \" ' {{ 7 * 7 }}"


def text_of(page: str) -> str:
    """Return what a page says, without its scripts and styles."""
    bare = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", bare)).split())


def curves_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="curves">(.*?)</script>', page, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture
def three(tmp_path: Path) -> list[Run]:
    """Return three seeds, each with all kinds of metrics."""
    for seed in range(3):
        metrics = {
            "critic__loss": lambda i: 1.0 / (i + 1),
            "weight__effective_sample_size": 0.5,
            "rollout__episode_return": lambda i: 10.0 * i,
            "mine__own": 3.0,
        }
        records = evaluated([100.0 + 50 * i + seed for i in range(10)], **metrics)
        write_run(tmp_path / f"{seed}", records, seed=seed, budget={"total_timesteps": 10_000})
    return find_runs([tmp_path])


def test_the_first_sentence_has_the_final_return_its_interval_the_steps_and_the_time(three: list[Run]):
    final = estimate([550.0, 551.0, 552.0])
    assert (final.value, final.low, final.high) == (551, 550, 552)
    assert title(three) == "awr on CartPole-v1"
    assert lead(three) == (
        "Return 551 (95% interval 550 to 552, 3 seeds), after 10,000 environment steps in 1 min 40 s a run."
    )
    assert lead(three[:1]) == "Return 550 (episodes from 540 to 560), after 10,000 environment steps in 1 min 40 s."


def test_the_first_sentence_while_a_run_goes_on_and_before(tmp_path: Path):
    assert title([]) == "Waiting for a run"
    assert "has no run yet" in lead([])
    run = write_run(tmp_path / "a", budget={"total_timesteps": 50_000})
    assert lead([run]) == "There are no records yet."
    assert lead([write_run(tmp_path / "b", records_of(2, actor__loss=1.0))]) == "There are no returns yet."
    run = write_run(tmp_path / "c", evaluated([7.0]), budget={"total_timesteps": 50_000})
    assert "after 1,000 of 50,000 environment steps in 10 s." in lead([run])


def both(online: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records of learning from data, with three evaluations, and then in an environment."""
    return [*({**record, "env_steps": 0} for record in evaluated([1.0, 2.0, 3.0])), *online]


def test_returns_of_learning_from_data_are_told_over_gradient_steps(tmp_path: Path):
    records = both(records_of(4, rollout__episode_return=9.0))
    budget = {"total_timesteps": 5_000, "gradient_steps": 3_000, "eval_interval": 1_000}
    run = write_run(tmp_path / "run", records, dataset="logs", budget=budget)
    assert lead([run]).startswith("Return 3 (episodes from \u22127 to 13), after 2,000 of 3,000 gradient steps")
    write_run(tmp_path / "before", dataset="logs")
    page = text_of(render(find_runs([tmp_path])))
    assert "logs: mean return of 20 evaluation episodes, after 2,000 gradient steps" in page
    _, phase = make_charts([run])[0][0].phases
    assert [chart.metric for chart in phase.returns] == ["rollout/episode_return"]
    assert phase.returns[0].text.unit == "mean return of the last 100 training episodes"
    assert not phase.returns[0].text.reading.startswith("Each point is an evaluation")


def test_gradient_steps_and_environment_steps_have_tables_of_their_own(tmp_path: Path):
    write_run(tmp_path / "a", both([]), dataset="logs")
    write_run(tmp_path / "b", both([]), dataset="logs", algorithm="bc")
    write_run(tmp_path / "c", both(evaluated([7.0])), dataset="logs", algorithm="iql")
    page = text_of(render(find_runs([tmp_path])))
    assert "after 2,000 gradient steps, the last that all of these runs have reached group" in page
    assert "after 1,000 environment steps group" in page


def test_the_spread_in_the_first_sentence_is_that_of_the_return_beside_it(tmp_path: Path):
    write_run(tmp_path / "long", evaluated([100.0, 200.0, 300.0]))
    write_run(tmp_path / "short", evaluated([10.0, 20.0]), algorithm="iql")
    assert "awr, with a return of 200 (episodes from 190 to 210), after 2,000 " in lead(find_runs([tmp_path]))


def test_of_several_groups_the_best_comes_first_and_the_table_has_them_all(tmp_path: Path):
    for beta, returns in ((1.0, [400.0, 480.0]), (3.0, [100.0, 200.0])):
        for seed in range(2):
            write_run(tmp_path / f"{beta}-{seed}", evaluated(returns), config={"beta": beta}, seed=seed)
    write_run(tmp_path / "slow", evaluated([490.0], weight__max=1.0), config={"beta": 3.0}, seed=9)
    page = render(find_runs([tmp_path]))
    assert "2 groups of runs on CartPole-v1 Best of 2 groups: awr, beta=1.0, with a return of 400" in text_of(page)
    rows = [text_of(row.replace("><", "> <")) for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL)]
    assert rows[0] == "group seeds return 95% interval beats awr, beta=1.0 time reached 475"
    assert rows[1].startswith("awr, beta=1.0 2 400 400 to 400 \N{EN DASH} 10 s")
    assert "2,000 steps, 20 s" in rows[1]
    assert rows[2].startswith("awr, beta=3.0 3 230 ")
    assert " 0.33 (0 to 1) " in rows[2]
    assert rows[2].endswith("1 of 3")


def test_thresholds_are_gymnasium_s():
    envs: list[Any] = ["CartPole-v1", "Pendulum-v1", "os:Nothing-v0", {"a": 1}]
    runs = [Run(Path("a"), {"algorithm": "awr", "env": env}, []) for env in envs]
    assert thresholds_of(group_runs(runs)) == {"CartPole-v1": 475}


def test_the_curves_are_those_of_the_runs(three: list[Run]):
    data = curves_of(render(three))
    chart = data["charts"]["0 env_steps eval/mean_reward"]
    (line,) = chart["lines"]
    expected = curve(three)
    steps, middle = line["middle"]
    np.testing.assert_allclose(data["steps"][steps], expected.steps)
    np.testing.assert_allclose(middle, expected.value, rtol=1e-4)
    ((_, low, high),) = line["bands"]
    np.testing.assert_allclose([low, high], [expected.low, expected.high], rtol=1e-4)
    np.testing.assert_allclose([values for _, values in line["runs"]], [run.returns.values for run in three])
    loss = data["charts"]["0 env_steps critic/loss"]["lines"][0]
    assert loss["bands"] == []
    np.testing.assert_allclose(loss["runs"][1][1], three[1].series("critic/loss").values, rtol=1e-4)
    (spread,) = data["charts"]["0 env_steps awr"]["lines"]
    (_, least, most), (_, below, above) = spread["bands"]
    mean = np.array(spread["middle"][1])
    # The seeds are 1 apart.
    for values, expected_of in ((least, mean - 11), (most, mean + 11), (below, mean - 5), (above, mean + 5)):
        np.testing.assert_allclose(values, expected_of)
    assert data["charts"]["0 env_steps critic/loss"]["until"] == 10_000


def test_every_metric_that_is_recorded_has_a_curve_and_ours_have_an_explanation(three: list[Run], tmp_path: Path):
    from rlox import Trainer

    config = {"hidden": 8, "batch_size": 16, "learning_starts": 20}
    with Trainer("awr", "Pendulum-v1", config=config, run_dir=tmp_path / "real") as trainer:
        trainer.train(400, log_interval=200, eval_interval=200, n_eval_episodes=1)
    (run,) = find_runs([tmp_path / "real"])
    assert len(run.names) > 15
    found = sections(run.names)
    assert set(found) == set(SECTIONS)
    assert all(len(meaning.reading) > 20 for table in SECTIONS.values() for meaning in table.values())
    keys = {key.removeprefix("0 env_steps ") for key in make_charts([run])[1]["charts"]}
    shown = {name for name in run.names if any(record[name] is not None for record in run.records if name in record)}
    assert keys - {"awr"} == shown - {
        *(f"eval/{name}" for name in ("std_reward", "min_reward", "max_reward", "n_episodes")),
        "time/seconds",
    }
    assert sections(three[0].names)["Other metrics"] == ["mine/own"]


def test_a_value_that_is_not_finite_leaves_a_gap(tmp_path: Path):
    run = write_run(tmp_path / "run", evaluated([1.0] * 5, critic__loss=[1.0, None, 3.0, None, 5.0]))
    (line,) = curves_of(render([run]))["charts"]["0 env_steps critic/loss"]["lines"]
    assert line["middle"][1] == [1, None, 3, None, 5]


def test_a_long_curve_keeps_its_gaps(tmp_path: Path):
    values: list[float | None] = [0.0] * 5000
    values[1234] = values[4321] = None
    runs = [write_run(tmp_path / "run", records_of(5000, every=10, critic__loss=values))]
    (line,) = make_charts(runs)[1]["charts"]["0 env_steps critic/loss"]["lines"]
    steps, kept = line["middle"]
    assert len(kept) <= MOST_POINTS // 2 + 2
    told = make_charts(runs)[1]["steps"][steps]
    assert told == sorted(set(told))
    assert [step for step, value in zip(told, kept, strict=True) if value is None] == [12350, 43220]


def test_the_spread_over_seeds_is_from_the_worst_to_the_best_episode_of_all(tmp_path: Path):
    for seed, returns in enumerate(([100.0, 200.0], [50.0, 210.0], [70.0, 400.0], [90.0, 220.0])):
        write_run(tmp_path / f"{seed}", evaluated(returns), seed=seed)
    (line,) = make_charts(find_runs([tmp_path]))[1]["charts"]["0 env_steps awr"]["lines"]
    assert line["bands"][0][1:] == [[40, 190], [110, 410]]


def test_the_return_to_reach_is_the_one_that_was_asked_for(tmp_path: Path):
    for seed in range(2):
        write_run(tmp_path / f"{seed}", evaluated([100.0, 200.0]), seed=seed)
    runs = find_runs([tmp_path])
    assert "reached 475" in text_of(render(runs))
    page = text_of(write_report(runs, tmp_path / "report.html", threshold=150.0).read_text())
    assert "reached 150" in page
    assert "reached 475" not in page


def test_a_run_that_was_not_evaluated_yet_leaves_the_spread_of_the_others(tmp_path: Path):
    write_run(tmp_path / "0", evaluated([100.0, 200.0]), seed=0)
    write_run(tmp_path / "1", records_of(1, critic__loss=1.0), seed=1)
    (line,) = make_charts(find_runs([tmp_path]))[1]["charts"]["0 env_steps awr"]["lines"]
    assert line["middle"][1] == [100, 200]


def test_a_long_curve_keeps_its_spikes(tmp_path: Path):
    values = np.zeros(5000)
    values[[1234, 4321]] = [7, -9]
    runs = [write_run(tmp_path / "run", records_of(5000, every=10, critic__loss=values.tolist()))]
    (line,) = make_charts(runs)[1]["charts"]["0 env_steps critic/loss"]["lines"]
    steps, kept = line["middle"]
    assert len(kept) <= MOST_POINTS
    assert {7, -9, 0} == set(kept)
    told = make_charts(runs)[1]["steps"][steps]
    assert told == sorted(set(told))
    assert told[kept.index(7)] == 12350


@pytest.mark.long
def test_a_page_of_ten_long_runs_is_below_two_megabytes(tmp_path: Path):
    rng = np.random.default_rng(0)
    names = [name.replace("/", "__", 1) for table in SECTIONS.values() for name in table if "eval" not in name]
    for seed in range(10):
        metrics = {name: rng.normal(size=1000).tolist() for name in names}
        write_run(tmp_path / f"{seed}", evaluated(rng.normal(size=1000).tolist(), **metrics), seed=seed)
    page = render(find_runs([tmp_path])).encode()
    assert 500_000 < len(page) < 2_000_000
    assert sum(
        len(line["runs"]) for chart in curves_of(page.decode())["charts"].values() for line in chart["lines"]
    ) == (10 * (len(names) + 2))
    assert 10 * 1000 * len(names) <= N_POINTS


def test_settings_that_differ_from_the_defaults_come_first(tmp_path: Path):
    config = {"learning_rate": 3e-4, "hidden": [64, 32], "beta": 0.5, "gamma": 0.99}
    page = render([write_run(tmp_path / "run", evaluated([1.0]), config=config, versions={"rlox": "9.9", "jax": 3})])
    table = page[page.index('class="settings"') :]
    rows = [text_of(row.replace("><", "> <")) for row in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)]
    assert rows[1:5] == ["beta 0.5 1.0", "hidden 64 32 256", "learning_rate 0.0003", "gamma 0.99"]
    assert "2 settings differ from the defaults" in text_of(page)
    assert "rlox 9.9, jax 3" in text_of(page)


def test_of_an_algorithm_that_is_not_known_here_settings_are_shown_as_they_are(tmp_path: Path):
    page = render([write_run(tmp_path / "run", evaluated([1.0]), algorithm="own", config={"sharpness": 2})])
    assert "own: defaults are not known here" in text_of(page)
    assert "sharpness" in text_of(page)


def test_names_and_settings_stay_text(tmp_path: Path):
    folder = "<img src=x onerror=alert(1)>"
    about: dict[str, Any] = {"env": NASTY, "dataset": NASTY, "preset": NASTY, "versions": {NASTY: NASTY}}
    for seed, name in enumerate((folder, "b")):
        records = evaluated([1.0, 2.0], **{f"weight__{NASTY}": 1.0})
        config = {NASTY: NASTY, "beta": seed, "deep": {"<b>": [NASTY]}}
        write_run(tmp_path / name, records, algorithm=NASTY, config=config, seed=seed, budget={NASTY: NASTY}, **about)
    page = render(find_runs([tmp_path]))
    ours = {"html", "head", "meta", "title", "link", "style", "body", "main", "header", "div", "h1", "h2", "h3", "h4"}
    ours |= {"p", "section", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "button", "i", "figure"}
    ours |= {"figcaption", "code", "footer", "script", "ul", "li", "b", "strong", "span"}
    bare = re.sub(r"(<(script|style)[^>]*>).*?</\2>", r"\1", page, flags=re.DOTALL)
    assert set(re.findall(r"<([a-z0-9]+)", bare)) <= ours
    assert "<img" not in page
    assert not any("\u2028" in script for script in re.findall(r"<script.*?</script>", page, flags=re.DOTALL))
    assert page.count("</script>") == 3
    assert folder in text_of(bare)
    assert "49" not in text_of(bare).partition("Made by")[0].replace("7 * 7", "")
    assert any(NASTY in chart["lines"][0]["label"] for chart in curves_of(page)["charts"].values())


def test_the_page_has_what_it_needs_and_lets_nothing_else_run(three: list[Run]):
    page = render(three)
    assert not re.findall(r'(?:src|href)="(?!data:,")', re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    assert policy[1].count("sha256-") == 3
    assert "v1.6.32" in page
    assert "MIT" in (PAGE / "uPlot.LICENSE").read_text()


def test_the_page_s_colours_are_those_of_the_pictures():
    style = (PAGE / "report.css").read_text()
    assert tuple(re.findall(r"--g\d: (#\w+);", style)[: len(COLOURS)]) == COLOURS
    script = (PAGE / "report.js").read_text()
    assert re.findall(r"(?:%|>=) (\d)\b", script).count(str(len(COLOURS))) >= 3


def test_numbers_and_times_as_people_write_them():
    assert [number(x) for x in (0.0, -0.01234, 487.25, 1234.5, -1e7, 1e15, None, float("nan"))] == [
        "0",
        "\u22120.01234",
        "487.2",
        "1,234",
        "\u221210,000,000",
        "1e+15",
        "\u2013",
        "\u2013",
    ]
    assert [duration(x) for x in (0.2, 59.6, 61, 3600, 90_000, None)] == [
        "0 s",
        "1 min 0 s",
        "1 min 1 s",
        "1 h 0 min",
        "25 h 0 min",
        "\u2013",
    ]


FINE = {
    "weight__clipped_fraction": 0.1,
    "weight__effective_sample_size": 0.5,
    "policy__std": 0.4,
    "critic__explained_variance": 0.9,
    "critic__loss": 1.0,
    "actor__loss": -1.0,
}


def found_in(folder: Path, returns: list[float] | None = None, **changes: Any) -> list[str]:
    config = {"min_std": 0.05, "learn_std": True, **changes.pop("config", {})}
    records = evaluated(returns or [float(i) for i in range(8)], **{**FINE, **changes})
    return [finding.what for finding in diagnose(write_run(folder, records, config=config))]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"weight__clipped_fraction": 0.95}, ["Nearly all weights are clipped."]),
        ({"weight__clipped_fraction": lambda i: 0.95 if i < 5 else 0.1}, []),
        ({"weight__effective_sample_size": 0.005}, ["A handful of samples has all the weight."]),
        ({"weight__effective_sample_size": 0.005, "weight__kl": 0.1}, []),
        ({"policy__std": lambda i: max(0.4 - 0.1 * i, 0.0501)}, ["The standard deviation is at its floor."]),
        ({"policy__std": 0.05, "config": {"learn_std": False}}, []),
        ({"policy__std": 0.05, "config": {"min_std": "<b>"}}, []),
        ({"critic__explained_variance": -0.2}, ["The critic predicts worse than a constant."]),
        ({"critic__explained_variance": lambda i: -1.0 if i < 4 else 0.5}, []),
        ({"critic__loss": lambda i: 1.0 if i < 7 else None}, ["Training diverged."]),
        (
            {"critic__explained_variance": -0.6, "advantage__std": [1.0, 9.0, 8.0, 5.0, 2.0, 0.5, 0.1, 0.1]},
            [],
        ),
        (
            {"critic__explained_variance": -0.6, "advantage__std": [1.0, 9.0, 8.0, 5.0, 4.0, 4.0, 4.0, 4.0]},
            ["The critic predicts worse than a constant."],
        ),
        ({"returns": [0, 100, 500, 480, 490, 500, 90, 60]}, ["Returns fell well below their best."]),
        ({"returns": [0, 100, 500, 480, 490, 500, 90, 480]}, []),
        ({"returns": [-1400, -800, -300, -150, -160, -200, -210, -190]}, []),
        ({"returns": [100, 101, 102, 103, 102, 101, 100.5, 100]}, []),
    ],
)
def test_what_the_numbers_show(tmp_path: Path, changes: dict[str, Any], told: list[str]):
    assert found_in(tmp_path / "run", **changes) == told


@pytest.mark.parametrize(("setting", "value"), [("rollout_steps", 2048), ("batch_norm", True)])
def test_a_setting_without_effect_is_not_advised(setting: str, value: Any, tmp_path: Path):
    returns, config = [0, 100, 500, 480, 490, 500, 90, 60], {"learning_rate": 1e-3, "tau": 0.005}
    (alone,) = diagnose(write_run(tmp_path / "a", evaluated(returns), config=config))
    (beside,) = diagnose(write_run(tmp_path / "b", evaluated(returns), config={**config, setting: value}))
    assert "lower tau" in alone.try_
    assert "tau" not in beside.try_
    assert "Lower learning_rate." in beside.try_


@pytest.mark.parametrize(("last", "n"), [(0.1, 0), (4.0, 1)])
def test_advantages_that_are_alike_are_those_of_learning_from_data_too(tmp_path: Path, last: float, n: int):
    spread = [1.0, 9.0, 8.0, 5.0, 4.0, last, last, last]
    records = evaluated([1.0] * 8, critic__explained_variance=-0.6, advantage__std=spread)
    run = write_run(tmp_path / "run", [{**record, "env_steps": 0} for record in records], dataset="logs")
    assert len(diagnose(run)) == n


def test_what_was_not_evaluated_is_said(tmp_path: Path):
    with_env = write_run(tmp_path / "a", records_of(8, rollout__episode_return=1.0))
    data_only = [{**record, "env_steps": 0} for record in records_of(8, actor__loss=1.0)]
    offline = write_run(tmp_path / "b", data_only, env=None, dataset="logs.npz")
    assert ["eval-interval" in finding.try_ for finding in diagnose(with_env)] == [True]
    assert ["--dataset DATA" in finding.try_ for finding in diagnose(offline)] == [True]
    live = write_run(tmp_path / "d", records_of(8, rollout__episode_return=1.0), env=None)
    assert ["eval-interval" in finding.try_ for finding in diagnose(live)] == [True]
    assert diagnose(write_run(tmp_path / "c")) == []


def test_findings_of_several_runs_are_told_once_with_those_that_have_them(tmp_path: Path):
    for seed in range(3):
        std = 0.05 if seed else 0.5
        write_run(tmp_path / f"{seed}", evaluated([1.0] * 8, policy__std=std), config={"min_std": 0.05}, seed=seed)
    runs = find_runs([tmp_path])
    ((finding, those),) = together(runs)
    assert [run.seed for run in those] == [1, 2]
    page = text_of(render(runs))
    assert f"{finding.what} 2 of 3 runs: {those[0].path}, {those[1].path}" in page
    assert "policy/std is 0.05, and min_std is 0.05" in page


@pytest.mark.long
def test_a_real_run_with_a_beta_that_is_too_small_is_told_so(tmp_path: Path):
    from rlox import Trainer

    config = {"hidden": 8, "learning_starts": 256, "beta": 0.05, "max_advantage": 1e15}
    with Trainer("awr", "Pendulum-v1", config=config, run_dir=tmp_path / "run") as trainer:
        trainer.train(800, log_interval=50)
    found = {finding.what: finding for finding in diagnose(find_runs([tmp_path])[0])}
    assert "Raise beta" in found["A handful of samples has all the weight."].try_
    assert "Nothing was evaluated." in found


def test_learning_from_data_and_then_in_an_environment_has_two_headings(tmp_path: Path):
    offline = [
        {"time": 1.0 + i, "env_steps": 0, "gradient_steps": 100 * (i + 1), "actor/loss": float(i)} for i in range(3)
    ]
    run = write_run(tmp_path / "run", offline)
    append(run.path, *({**record, "env_steps": 10 * i + 10} for i, record in enumerate(offline)))
    page = render(find_runs([run.path]))
    told = text_of(page)
    assert told.index("Learning from data") < told.index("Learning in the environment")
    charts = curves_of(page)["charts"]
    assert {"0 gradient_steps actor/loss", "0 env_steps actor/loss"} <= set(charts)
    assert charts["0 gradient_steps actor/loss"]["until"] == 300


def test_the_parts_are_those_of_the_page(three: list[Run]):
    page, told = render(three), contents(three)
    assert all(part in page for part in told["parts"].values())
    assert '<html lang="en">' in page
    assert '<html lang="en" data-live>' in render(three, live=True)
    assert "Waiting for a run" in text_of(render([], live=True))


def test_the_command_writes_beside_the_run_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/a"), evaluated([1.0]))
    write_run(Path("runs/b"), evaluated([1.0]))
    main(["report", "runs/a"])
    main(["report", "runs/a", "runs/b", "--output", "both.html"])
    assert capsys.readouterr().out.splitlines() == ["Wrote runs/a/report.html.", "Wrote both.html, of 2 runs."]
    assert Path("both.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(SystemExit):
        main(["report", "nothing"])
    assert capsys.readouterr().err.startswith("rlox: error: 'nothing' is not the folder of a run")


def test_the_wheel_has_the_page(tmp_path: Path):
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=root, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"rlox/runs/page/{file.name}" for file in PAGE.iterdir()} <= set(names)


def test_the_command_that_trains_says_what_its_numbers_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    flags = "--env Pendulum-v1 --total-timesteps 600 --n-eval-episodes 1 --hidden 8 --learning-starts 256"
    main(["train", "awr", *flags.split(), "--log-interval", "50", "--beta", "0.05", "--max-advantage", "1e15"])
    told = capsys.readouterr().out
    assert "A handful of samples has all the weight. The effective sample size is 0." in told
    assert "Nothing was evaluated" not in told
    assert "Nothing was learned" not in told


def test_the_command_that_trains_says_if_nothing_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    flags = ["--env", "CartPole-v1", "--total-timesteps", "60", "--n-eval-episodes", "1", "--hidden", "8"]
    main(["train", "mpo", *flags, "--learning-starts", "100"])
    waits = "learning_starts=100, batch_size=256, random_episodes=5"
    told = capsys.readouterr().out
    assert f"Nothing was learned. No update was made within 60 environment steps: {waits}. Train longer" in told
    # A file of before, whose records do not count gradient steps.
    kept = find_runs([Path(__file__).parents[1] / "benchmarks" / "results" / "quickstart.json"])
    assert all(finding.what != "Nothing was learned." for run in kept for finding in diagnose(run))
