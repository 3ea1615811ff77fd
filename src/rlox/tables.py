"""How things look: one line or aligned lines in a terminal, tables in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping

_CELL = "text-align:left;padding:1px 12px 1px 0;border:0;background:none"


class Results(dict[str, float]):
    """Metrics by name: a dict, which reads as a table."""

    def __repr__(self) -> str:
        """Return a line for each, aligned."""
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {shown(value)}" for name, value in self.items()) or "{}"

    def _repr_html_(self) -> str:
        return as_html("", self)


def shown(value: object) -> str:
    """Return a value in few letters, on one line."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:100]} ... {text[-15:]}"


def as_line(title: str, values: Mapping[str, object]) -> str:
    """Return ``title(name: value, ...)``."""
    return f"{title}({', '.join(f'{name}: {shown(value)}' for name, value in values.items())})"


def as_html(title: str, values: Mapping[str, object]) -> str:
    """Return an HTML table of names and values. It has no colours of its own, so that it fits light and dark pages."""
    rows = "".join(
        f'<tr style="background:none"><td style="{_CELL}">{html.escape(name)}</td>'
        f'<td style="{_CELL}">{html.escape(shown(value))}</td></tr>'
        for name, value in values.items()
    )
    head = f"<strong>{html.escape(title)}</strong>" if title else ""
    return f'<div>{head}<table style="border:0;border-collapse:collapse">{rows}</table></div>'
