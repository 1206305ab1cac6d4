"""The report of a run or of an evaluation: report.json, and report.html to look at.

report.html is one file that opens from disk without network: pictures, style and script are in
it, and its policy lets nothing else in. No path, no user's name and nothing of a photo's file
but its name and pixels gets into it.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.judge.pictures import Picture
from trainer.numbers import finite_or_none
from trainer.report.close_ups import faces_section
from trainer.report.escape import Markup, element, json_text, verbatim
from trainer.report.figures import Report, private
from trainer.report.gallery import gallery
from trainer.report.page_curves import curves
from trainer.report.page_figures import figures_section
from trainer.report.page_head import head
from trainer.report.page_photos import all_photos, gains, photo_rows
from trainer.report.page_words import config_section, method, run_section, skipped
from trainer.report.verdict import verdict
from vae_core.files import write_json, write_text

JSON_NAME, HTML_NAME = "report.json", "report.html"
PAGE = Path(__file__).parent / "page"


def write_report(
    folder: Path,
    report: Report,
    history: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Picture] = (),
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write report.json and report.html into a folder.

    `report` comes from report_data.build_report, `history` are the lines of metrics.jsonl,
    `pictures` the photos to show, in any order, and `config` the options, places among them:
    of those only the last part is written.
    """
    report = finite_or_none({**report, "config": private(config or {})})
    html = page(report, history, pictures)
    write_json(folder / JSON_NAME, report)
    write_text(folder / HTML_NAME, html)


def page(
    report: Report, history: Sequence[Mapping[str, Any]] = (), pictures: Sequence[Picture] = ()
) -> str:
    """Build report.html as one text."""
    sections = {
        "Photos": gallery(report, pictures),
        "Faces": faces_section(report, pictures),
        "Figures": figures_section(report),
        "Gains": gains(report),
        "Curves": curves(report, history),
        "All photos": all_photos(report),
        "Skipped": skipped(report),
        "Run": run_section(report),
        "Options": config_section(report),
        "Method": method(report),
    }
    sections = {title: content for title, content in sections.items() if content}
    links = [element("a", title, href=f"#{anchor(title)}") for title in sections]
    body = [
        head(report),
        element("nav", element("div", links, class_="wrap"), aria_label="Sections"),
        element("main", [section(*item) for item in sections.items()], class_="wrap"),
        element("footer", element("div", "Made by VAE Lab.", class_="wrap")),
        _data_block(report),
        element("script", verbatim(_script())),
    ]
    return "<!doctype html>\n" + document(verdict(report).headline, body) + "\n"


def section(title: str, content: Markup) -> Markup:
    """Wrap a section with its heading."""
    return element("section", element("h2", title), content, id=anchor(title))


def anchor(title: str) -> str:
    """Name a section for links: "All photos" -> "all"."""
    return title.split()[0].lower()


def document(title: str, body: Sequence[Markup]) -> Markup:
    """Build the html element: policy first, then style, then the body."""
    header = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy(_script())),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{title} - VAE Lab"),
        element("style", verbatim((PAGE / "report.css").read_text(encoding="utf-8"))),
    ]
    return element("html", element("head", header), element("body", body), lang="en")


def policy(script: str) -> str:
    """Return the page's security policy: nothing from outside, and no script but ours."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _script() -> str:
    return (PAGE / "report.js").read_text(encoding="utf-8")


def _data_block(report: Report) -> Markup:
    """Hold the rows of the table of all photos, as data that the browser does not run."""
    return element(
        "script", verbatim(json_text(photo_rows(report))), type="application/json", id="data"
    )
