"""docs/latent-space.md: its snippets run, its commands exist, and both languages say the same."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_docs import blocks, commands
from trainer.options.command_line import parse_command_line
from trainer.textbook import parse

PAGES = ("latent-space.md", "latent-space.zh.md")


@pytest.fixture
def pages(project) -> list[str]:
    return [(project / "docs" / name).read_text("utf-8") for name in PAGES]


def test_both_pages_have_the_same_blocks_pictures_and_sections(pages) -> None:
    english, chinese = pages
    assert blocks(english) == blocks(chinese)
    pictures = r"!\[[^\]]*\]\(([^)]+)\)"
    assert re.findall(pictures, english) == re.findall(pictures, chinese)
    for mark in (r"^#+ ", r"^\|", r"^- "):
        assert len(re.findall(mark, english, re.M)) == len(re.findall(mark, chinese, re.M)), mark


def test_both_pages_give_the_same_figures(pages) -> None:
    """Whatever stands in a table."""
    found = [re.findall(r"\d+(?:\.\d+)?", "".join(re.findall(r"^\|.*", p, re.M))) for p in pages]
    assert found[0] and found[0] == found[1]


def test_its_snippets_run(pages, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = [block.partition("\n")[2] for block in blocks(pages[0]) if block.startswith("python")]
    assert len(code) == 3
    names: dict = {}
    for part in code:
        exec(part, names)
    for file in ("7.png", "1.png"):
        assert np.array(Image.open(Path(file))).shape == (8, 8)


def test_its_commands_are_commands(pages) -> None:
    for line in commands(pages[0]):
        words = shlex.split(line)
        if words[1] == "launch":
            assert parse_command_line(words[3:]).preset == "digits"
        else:
            assert words[:2] == ["python", "trainer/textbook.py"] and parse(words[2:]).lesson


def test_its_flags_are_the_trainers(pages) -> None:
    rows = re.findall(r"^\| [^|]+ \| `(--[^|`]+)` \|", pages[0], re.M)
    assert len(rows) == 7
    for row in rows:
        flags = ["--preset", "digits", "--output", "run", *shlex.split(row)]
        assert parse_command_line(flags).preset
