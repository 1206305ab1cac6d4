"""Pictures in the nodes' help pages: there, small, and named as ComfyUI's page looks for them."""

import re
from pathlib import Path

import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[1] / "web" / "docs"
PAGES = sorted(DOCS.glob("*/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_each_page_shows_its_node(page):
    """Relative to web/docs, not to the page: so do ComfyUI's frontends 1.32 and 1.58 read them."""
    pictures = re.findall(r"!\[([^]]+)\]\(([^)]+)\)", page.read_text("utf-8"))
    assert pictures, "no picture, or one without words for those who cannot see it"
    for _, path in pictures:
        file = DOCS / path
        assert path.startswith(f"{page.parent.name}/") and file.stat().st_size <= 120_000
        with Image.open(file) as image:
            image.load()
            assert image.format == "JPEG" and image.width >= 600


def test_every_node_has_both_pages():
    assert {page.parent.name for page in PAGES} == {folder.name for folder in DOCS.iterdir()}
    assert len(PAGES) == 2 * len({page.parent for page in PAGES}) == 20
