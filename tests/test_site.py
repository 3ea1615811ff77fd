"""The site: every public name has its page, what it stands on is shipped, and it reads well, wide and on a phone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import rlox
from browser import chromium, launched
from rlox import errors, loggers

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def documented() -> set[str]:
    """Return the names that the pages in docs/api ask Sphinx to document."""
    text = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    return set(re.findall(r"^(?: {3}|\.\. [\w:]+:: )(rlox[\w.]+)$", text, flags=re.MULTILINE))


def test_every_public_name_has_its_page():
    assert {f"rlox.{name}" for name in rlox.__all__} | {"rlox.errors"} <= documented()


def test_settings_of_every_algorithm_have_their_page():
    kinds = {member.config for name, member in rlox.ALGORITHMS.items()}
    for kind in kinds:
        if kind.__module__.startswith("rlox."):
            assert f"{kind.__module__}.{kind.__name__}" in documented(), "name it in docs/api/index.md"


def test_names_that_are_documented_are_there():
    from importlib import import_module

    for name in documented() - {"rlox.callbacks", "rlox.loggers", "rlox.errors"}:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name


def test_mathjax_is_shipped_with_its_license():
    shipped = DOCS / "_static" / "mathjax"
    assert "Apache License" in (shipped / "LICENSE").read_text()
    assert sum(file.stat().st_size for file in shipped.rglob("*")) < 1.2e6
    config = (DOCS / "conf.py").read_text()
    assert (shipped / re.search(r'mathjax_path = "mathjax/(.*)"', config)[1]).exists()  # type: ignore[index]


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == rlox.__version__
    assert cited["license"] == "MIT"
    assert {"cff-version", "message", "title", "authors", "type"} <= cited.keys()


def test_public_ci_runs_what_is_run_here():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    checks, long = ([step["run"] for step in job["steps"] if "run" in step] for job in workflow["jobs"].values())
    assert checks == [".ci/run"]
    assert long[-1] == "make test-long"
    assert "make docs" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_forms_for_issues_ask_for_what_is_needed():
    forms = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*")}
    assert forms.keys() == {"bug", "does_not_learn", "idea", "config"}
    for name in forms.keys() - {"config"}:
        assert {"name", "description", "body"} <= forms[name].keys()
        assert any(part.get("validations", {}).get("required") for part in forms[name]["body"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, which builds without a warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-n",
        "-q",
        "-d",
        str(folder / "doctrees"),
        str(DOCS),
        str(folder / "html"),
    ]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_index_of_the_site_has_every_public_name(site: Path):
    from sphinx.util.inventory import InventoryFile

    found = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    names = {name for kind in found.data.values() for name in kind}
    for module in (errors, rlox.callbacks, loggers):
        assert public(module) <= names
    assert {f"rlox.{name}" for name in rlox.__all__} <= names
    assert {"rlox.Trainer.train", "rlox.algorithms.iql.IQLConfig.beta", "rlox.Policy.predict"} <= names


def public(module: ModuleType) -> set[str]:
    """Return the classes that a module makes for others."""
    made = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    return {f"{module.__name__}.{name}" for name in made if name[0] != "_" and isinstance(vars(module)[name], type)}


@pytest.mark.slow
def test_a_page_of_settings_says_what_they_may_be(site: Path):
    page = (site / "api" / "generated" / "rlox.algorithms.iql.IQLConfig.html").read_text()
    assert "It must be greater than 0 and less than 1." in page
    assert "Temperature: divides the advantage" in page


@pytest.mark.slow
def test_each_command_of_a_block_is_a_line_that_goes_on_below_indented(site: Path):
    block = re.search(r'<div class="highlight-bash.*?</pre>', (site / "tune.html").read_text(), flags=re.DOTALL)
    assert block is not None
    assert block[0].count('<span class="line">') == 2
    assert (
        "div.highlight-bash .line { display: block; padding-left: 1.6rem; text-indent: -1.6rem; }"
        in (DOCS / "_static" / "site.css").read_text()
    )


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (apt install chromium)")
@pytest.mark.parametrize("width", [1280, 360])
def test_pages_ask_nothing_of_the_network_and_fit(site: Path, width: int):
    wrong: list[str] = []
    with launched() as browser:
        page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
        page.set_default_timeout(120_000)
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.on(
            "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
        )
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        for file in sorted(site.rglob("*.html")):
            if file.is_relative_to(site / "_modules"):
                continue
            page.goto(file.as_uri())
            if page.evaluate("typeof MathJax") == "object" and page.locator(".math").count():
                page.wait_for_function("window.MathJax.startup?.promise?.then(() => true)")
                assert page.locator("mjx-container").count() >= page.locator(".math").count(), file
                assert page.locator("mjx-merror").count() == 0, file
            wrong += [f"{file.name}: {what}" for what in page.evaluate(OUTSIDE)]
    assert wrong == []


OUTSIDE = """() => [...document.querySelectorAll("article *")].filter((one) => {
    if (one.closest("mjx-assistive-mml") || one.getBoundingClientRect().right <= innerWidth + 1) return false;
    for (let up = one; up.tagName !== "ARTICLE"; up = up.parentElement)
        if (["auto", "scroll", "hidden"].includes(getComputedStyle(up).overflowX)) return false;
    return true;
}).slice(0, 3).map((one) => `${one.tagName} ${one.className} leaves the page`)"""
"""What is wider than the screen and cannot be scrolled."""
