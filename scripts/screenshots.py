"""Pictures of a report in docs/images: wide, on a phone, and in the dark.

python scripts/screenshots.py RUN...
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from browser import launched  # noqa: E402
from rlox.runs.history import find_runs  # noqa: E402
from rlox.runs.report import write_report  # noqa: E402

VIEWS = {
    "wide": {"width": 1080, "height": 1290, "dark": False, "scale": 1, "top": "h1"},
    "phone": {"width": 360, "height": 780, "dark": False, "scale": 2, "top": "h2:has(+ .legend)"},
    "dark": {"width": 1080, "height": 1000, "dark": True, "scale": 1, "top": "text=Weights and advantages"},
}


def main() -> None:
    """Write a report of the runs that are named, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        page_file = write_report(find_runs(sys.argv[1:]), Path(folder) / "report.html")
        for name, view in VIEWS.items():
            context = browser.new_context(
                viewport={"width": view["width"], "height": view["height"]},
                color_scheme="dark" if view["dark"] else "light",
                device_scale_factor=view["scale"],
            )
            page = context.new_page()
            page.goto(page_file.as_uri())
            top = page.locator(view["top"]).first.bounding_box()["y"]
            page.evaluate("(top) => scrollTo(0, top)", max(top - 28, 0) if name != "wide" else 0)
            file = ROOT / "docs" / "images" / f"report_{name}.png"
            page.screenshot(path=file)
            print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")
            context.close()


if __name__ == "__main__":
    main()
