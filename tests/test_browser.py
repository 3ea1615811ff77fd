"""The report in a real browser: it draws without a network, hides curves at a click, fits a phone, and follows runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import chromium, launched
from rlox.runs.history import find_runs
from rlox.runs.meanings import SECTIONS
from rlox.runs.report import write_report
from rlox.runs.watch import Watch
from written import append, evaluated, write_run

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (apt install chromium)")
NASTY = "<img src=x onerror=alert(1)>"
RETURNS = "0 env_steps eval/mean_reward"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return what opens an address, and fails the test on an error in the page or a request that leaves it."""
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:

        def opened(url: str, *, width: int = 1200, dark: bool = False) -> Any:
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
            )
            stack.callback(context.close)
            page = context.new_page()

            def route(route: Any) -> None:
                if route.request.url.startswith(url):
                    route.continue_()
                else:
                    wrong.append(f"request for {route.request.url}")
                    route.abort()

            page.route("**/*", route)
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
            page.on("dialog", lambda dialog: (wrong.append("an alert"), dialog.dismiss()))
            page.goto(url)
            return page

        yield opened
    assert wrong == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a report of two groups, in a folder with a name that would run if it were not text."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for seed in range(3):
        returns = (np.linspace(20, 480, 12) + rng.normal(0, 15, 12)).tolist()
        metrics = {"critic__loss": [1.0, None, 3.0, *range(9)], "weight__max": 20.0, f"policy__{NASTY}": 1.0}
        write_run(folder / NASTY / f"{seed}", evaluated(returns, **metrics), seed=seed)
    write_run(folder / "b", evaluated([30.0] * 9), config={"beta": 3.0, NASTY: NASTY}, versions={NASTY: NASTY})
    return write_report(find_runs([folder]), folder / "report.html").as_uri()


def drawn(page: Any, chart: str = RETURNS) -> int:
    """Return how many pixels of a chart's canvas are painted."""
    return page.evaluate(
        """(key) => {
            const canvas = [...document.querySelectorAll("[data-chart]")]
                .find((figure) => figure.dataset.chart === key).querySelector("canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let n = 0;
            for (let i = 3; i < data.length; i += 4) n += data[i] > 0;
            return n;
        }""",
        chart,
    )


def shown(page: Any, chart: str = RETURNS) -> list[bool]:
    """Return which of a chart's curves are shown."""
    return page.evaluate("(key) => rlox.plots().get(key).u.series.slice(1).map((one) => one.show)", chart)


@pytest.mark.long
def test_every_chart_is_drawn(visit: Callable[..., Any], report: str):
    page = visit(report)
    assert page.title() == "2 groups of runs on CartPole-v1"
    keys = page.evaluate("[...rlox.plots().keys()]")
    assert len(keys) == page.locator("[data-chart]").count() == 7
    assert {RETURNS, "0 env_steps critic/loss", f"0 env_steps policy/{NASTY}"} <= set(keys)
    assert all(drawn(page, key) > 500 for key in keys)
    assert page.locator("img").count() == 0
    assert NASTY in page.locator("details").last.text_content()


@pytest.mark.long
def test_a_click_on_a_name_hides_its_curves_everywhere_and_another_shows_them(visit: Callable[..., Any], report: str):
    page = visit(report)
    before = drawn(page)
    first, second = page.locator(".legend button").all()
    assert all(shown(page))
    first.click()
    assert shown(page) == [False] * 6 + [True]
    assert not any(shown(page, "0 env_steps critic/loss"))
    assert drawn(page) < 0.9 * before
    assert first.get_attribute("aria-pressed") == "false"
    assert second.get_attribute("aria-pressed") == "true"
    first.click()
    assert all(shown(page))
    assert drawn(page) == before


def test_the_keyboard_does_what_a_click_does(visit: Callable[..., Any], report: str):
    page = visit(report)
    while page.evaluate("!document.activeElement.classList.contains('key')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert shown(page)[0] is False
    page.keyboard.press("Space")
    assert shown(page)[0] is True


@pytest.mark.long
def test_the_cursor_reads_values_and_dragging_zooms_all_charts(visit: Callable[..., Any], report: str):
    page = visit(report)
    figure = page.locator("figure.first")
    assert figure.locator(".values span").text_content() == "last"
    over = figure.locator(".u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    assert figure.locator(".values span").text_content() == "at 6,000"
    values = page.evaluate("(key) => rlox.plots().get(key).u.data", RETURNS)
    told = float(figure.locator(".values b").first.text_content().replace(",", ""))
    assert told == pytest.approx(values[6][values[0].index(6000)], rel=1e-3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 3 / 4, box["y"] + 50, steps=4)
    page.mouse.up()
    ends = "(key) => { const { min, max } = rlox.plots().get(key).u.scales.x; return [min, max]; }"
    for chart in (RETURNS, "0 env_steps weight/max"):
        np.testing.assert_allclose(page.evaluate(ends, chart), [6000, 9000], atol=60)
    over.dblclick()
    assert page.evaluate(ends, RETURNS) == [0, 12_000]


@pytest.mark.parametrize("width", [360, 820, 1400])
def test_nothing_is_wider_than_the_window(visit: Callable[..., Any], report: str, width: int):
    page = visit(report, width=width)
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widths = page.evaluate("[...document.querySelectorAll('.plot')].map((p) => [p.clientWidth, p.scrollWidth])")
    assert all(inner <= outer for outer, inner in widths)


def test_a_window_that_is_turned_is_filled_anew(visit: Callable[..., Any], report: str):
    page = visit(report, width=360)
    page.set_viewport_size({"width": 900, "height": 400})
    page.wait_for_function("(key) => rlox.plots().get(key).u.width > 600", arg=RETURNS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 900


def contrast(page: Any, selector: str) -> float:
    """Return the ratio of contrast of an element's text to the page."""
    pair = page.evaluate(
        """(selector) => [getComputedStyle(document.querySelector(selector)).color,
                          getComputedStyle(document.documentElement).backgroundColor]""",
        selector,
    )
    channels = [np.array([int(c) for c in colour[4:-1].split(",")]) / 255 for colour in pair]
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in channels]
    light, dark = sorted((float(c @ [0.2126, 0.7152, 0.0722]) for c in linear), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_curves_stand_out_by_day_and_night(visit: Callable[..., Any], report: str, dark: bool):
    page = visit(report, dark=dark)
    assert contrast(page, "body") > 10
    assert contrast(page, "figcaption") > 4.5
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(int(c) for c in background[4:-1].split(",")) < 200) is dark
    for i in range(6):
        page.evaluate("(i) => document.querySelector('.unit').style.color = `var(--g${i})`", i)
        assert contrast(page, ".unit") > 3, i


@pytest.mark.long
def test_the_colours_follow_the_system_and_print_is_light(visit: Callable[..., Any], report: str):
    page = visit(report)
    axis = "(key) => { const u = rlox.plots().get(key).u; return u.series[7].stroke(u, 7); }"
    light = page.evaluate(axis, RETURNS)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(axis, RETURNS) != light
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(axis, RETURNS) == light


@pytest.mark.long
def test_a_page_of_ten_long_runs_is_there_within_two_seconds(visit: Callable[..., Any], tmp_path: Path):
    rng = np.random.default_rng(0)
    names = [name.replace("/", "__", 1) for table in SECTIONS.values() for name in table if "eval" not in name]
    for seed in range(10):
        metrics = {name: rng.normal(size=1000).tolist() for name in names}
        write_run(tmp_path / f"{seed}", evaluated(rng.normal(size=1000).tolist(), **metrics), seed=seed)
    page = visit(write_report(find_runs([tmp_path]), tmp_path / "report.html").as_uri())
    assert drawn(page) > 1000
    # The time of the processor, which other tests do not stretch.
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")
    measured = {one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]}
    assert measured["ScriptDuration"] + measured["LayoutDuration"] < 2


@pytest.mark.long
def test_the_page_follows_a_run_from_before_its_first_record(visit: Callable[..., Any], tmp_path: Path):
    (tmp_path / "runs").mkdir()
    with Watch([tmp_path / "runs"]) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        page = visit(server.url)
        assert page.locator("h1").text_content() == "Waiting for a run"
        run = write_run(tmp_path / "runs" / "a", evaluated([3.0, 4.0], critic__loss=1.0), seed=1)
        write_run(tmp_path / "runs" / "b", evaluated([5.0, 6.0]), config={"beta": 3.0})
        page.wait_for_function("() => rlox.plots().size > 0")
        page.locator(".legend button").first.click()
        page.evaluate("(key) => rlox.plots().get(key).u.setScale('x', { min: 1200, max: 1800 })", RETURNS)
        server._rests_until = 0.0
        append(run.path, *evaluated([3.0, 4.0, 9.0], critic__loss=1.0)[2:])
        page.wait_for_function("(key) => rlox.plots().get(key).u.data[0].length === 3", arg=RETURNS)
        assert page.evaluate("(key) => rlox.plots().get(key).u.data[1]", RETURNS) == [3, 4, 9]
        assert shown(page) == [False, True]
        ends = "(key) => { const { min, max } = rlox.plots().get(key).u.scales.x; return [min, max]; }"
        assert page.evaluate(ends, RETURNS) == [1200, 1800]
        assert page.evaluate(ends, "0 env_steps critic/loss") == [0, 3000]
        assert page.locator("#status").text_content().startswith("Live, updated")
        server.shutdown()
