"""How Sphinx builds the site from the Markdown in this folder and the docstrings: ``make docs``, without a network."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.formatters import HtmlFormatter
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.highlighting import PygmentsBridge
from sphinx.util.inspect import stringify_signature
from sphinx.util.typing import stringify_annotation

import rlox
from rlox.core.config import Settings

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src"

project = "rlox"
author = copyright = "the rlox authors"
version = release = rlox.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_static", "inventories"]
templates_path = ["_templates"]

# Markdown: the equations of the pages, and links to headings.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings: single backticks are code, as they are in the help of the command line.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
doctest_default_flags = doctest.ELLIPSIS
doctest_global_setup = "import numpy as np\nimport rlox\nfrom rlox import *"

# Names of other packages: their places are in files here, so that nothing is asked for in the network.
intersphinx_mapping = {
    name: (address, str(HERE / "inventories" / f"{name}.txt"))
    for name, address in {
        "python": "https://docs.python.org/3/",
        "numpy": "https://numpy.org/doc/stable/",
        "gymnasium": "https://gymnasium.farama.org/",
        "jax": "https://docs.jax.dev/en/latest/",
        "matplotlib": "https://matplotlib.org/stable/",
    }.items()
}

SHORT = {
    "Array": "jax.Array",
    "Figure": "matplotlib.figure.Figure",
    "ArrayLike": "numpy.typing.ArrayLike",
    "NDArray": "numpy.typing.NDArray",
    "Path": "pathlib.Path",
    **{name: f"collections.abc.{name}" for name in ("Callable", "Iterable", "Iterator", "Mapping", "Sequence")},
}
"""Names of other packages as the signatures have them."""
ABBREVIATIONS = {"np": "numpy", "gym": "gymnasium", "spaces": "gymnasium.spaces"}
nitpick_ignore = [
    ("py:class", name)
    for name in ("ActionKind", "Float", "Int", "Bool", "PRNGKeyArray", "optax.OptState", "minari.MinariDataset")
]

html_theme = "furo"
html_title = "rlox"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
mathjax_path = "mathjax/startup.js"
mathjax3_config = {"loader": {"load": ["input/tex", "output/chtml", "a11y/assistive-mml"]}}


def link_pages_of_the_root(app: Sphinx, docname: str, text: list[str]) -> None:
    """Let links to the Markdown beside the README lead to its pages here."""
    text[0] = re.sub(
        r"\]\(\.\./(CHANGELOG|CONTRIBUTING|SECURITY)\.md", lambda f: f"](/project/{f[1].lower()}.md", text[0]
    )


def link_code(app: Sphinx, tree: nodes.document, docname: str) -> None:
    """Let links to a module's file lead to its highlighted code, instead of a download."""
    assert app.builder is not None
    modules: dict[str, Any] = getattr(app.env, "_viewcode_modules", {})
    for link in list(tree.findall(addnodes.download_reference)):
        file = (HERE / docname).parent / link["reftarget"]
        inside = file.resolve().is_relative_to(PACKAGE) and file.suffix == ".py"
        module = ".".join(file.resolve().relative_to(PACKAGE).with_suffix("").parts) if inside else ""
        if modules.get(module):
            uri = app.builder.get_relative_uri(docname, "_modules/" + module.replace(".", "/"))
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def find_short_name(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.Element) -> Any:
    """Find what a docstring or a signature names without its module: there is one of the name only."""
    if node.get("refdomain") != "py" or app.builder is None:
        return None
    target = node["reftarget"]
    first, _, rest = target.partition(".")
    node["reftarget"] = SHORT.get(target) or (f"{ABBREVIATIONS[first]}.{rest}" if first in ABBREVIATIONS else target)
    wanted = target.rpartition(".")[2]
    objects = env.domaindata["py"]["objects"]
    found = {(place.docname, place.node_id) for name, place in objects.items() if name.rpartition(".")[2] == wanted}
    if len(found) != 1:
        return None
    docname, anchor = found.pop()
    uri = app.builder.get_relative_uri(node["refdoc"], docname)
    return nodes.reference("", "", shown, refuri=f"{uri}#{anchor}", internal=True)


def say_what_a_setting_may_be(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Add a setting's bounds, and without what it has no effect, to its docstring."""
    if what == "attribute" and lines:
        lines[:0] = ["..", ""]  # Napoleon takes what is before a colon in the first line for a type.
    owner, _, field = name.rpartition(".")
    module, _, kind = owner.rpartition(".")
    settings = getattr(__import__(module, fromlist=[kind]), kind, None) if what == "attribute" else None
    if not (isinstance(settings, type) and issubclass(settings, Settings) and dataclasses.is_dataclass(settings)):
        return
    about = settings.__dataclass_fields__[field].metadata if field in settings.__dataclass_fields__ else {}
    rules = [f"{rule} {bound:g}" for rule, bound in about.get("bounds", {}).items()]
    needs = [f"``{need}={value!r}``" for need, value in about.get("needs", {}).items()]
    if rules:
        lines += ["", f"It must be {' and '.join(rules)}."]
    if needs:
        lines += ["", f"It has an effect only with {' and '.join(needs)}."]


def as_written(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Return a signature with its types as the source has them: evaluated, those of arrays and unions are long."""
    if what not in ("class", "exception", "function", "method"):
        return None
    if isinstance(obj, type) and (issubclass(obj, Settings) or issubclass(obj, Exception)):
        return "", None  # Settings are all of the page, and errors are not made by users.
    if getattr(obj, "_is_protocol", False):
        if "__call__" not in vars(obj):
            return "", None
        obj = obj.__call__
    found = inspect.signature(obj)
    parameters = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    # Positions are what the protocols are called by, and their names what they are explained by.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [p.replace(kind=kind) if p.kind is p.POSITIONAL_ONLY else p for p in parameters]
    empty = inspect.Signature.empty
    returned = None if found.return_annotation is empty else stringify_annotation(found.return_annotation)
    return stringify_signature(found.replace(parameters=parameters, return_annotation=empty)), returned


class InLines(HtmlFormatter):
    """Makes each line of code an element of its own, so that a long command goes on below, indented."""

    def wrap(self, source: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """Return what is written, line by line."""
        return super().wrap((i, f'<span class="line">{line}</span>' if i else line) for i, line in source)


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    PygmentsBridge.html_formatter = InLines
    app.connect("source-read", link_pages_of_the_root)
    app.connect("doctree-resolved", link_code)
    app.connect("missing-reference", find_short_name, priority=100)
    app.connect("autodoc-process-docstring", say_what_a_setting_may_be, priority=100)
    app.connect("autodoc-process-signature", as_written)
