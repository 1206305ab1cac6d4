"""The documents agree with the code, with each other, and with the files they point to."""

import ast
import re
from pathlib import Path

import pytest
import tomllib

from trainer.options.config import options

READMES = ("README.md", "README.zh.md")
OTHERS_FLAGS = {"--index-url", "--num_processes"}  # of pip and of accelerate
MAPPED = ("__init__.py", "nodes", "vae_core", "trainer", "benchmarks")


def blocks(markdown: str) -> list[str]:
    """The fenced blocks of a document, with their language."""
    return re.findall(r"^```(.*?)^```", markdown, re.MULTILINE | re.DOTALL)


def commands(markdown: str, language: str = "sh") -> list[str]:
    """The lines of a document's blocks in a language."""
    found = [block.partition("\n") for block in blocks(markdown)]
    return [line for name, _, body in found if name == language for line in body.splitlines()]


def is_entry(source: str) -> bool:
    """Whether a file of the trainer is made to be started by its path."""
    return "if not __package__:" in source


@pytest.fixture(params=READMES)
def readme(request, project) -> str:
    return (project / request.param).read_text("utf-8")


@pytest.fixture
def entries(project) -> list[str]:
    files = (project / "trainer").glob("*.py")
    found = [path for path in files if is_entry(path.read_text("utf-8"))]
    return sorted(path.relative_to(project).as_posix() for path in found)


def test_readme_shows_every_entry(readme, entries):
    assert len(entries) == 6
    started = " ".join(commands(readme))
    assert [entry for entry in entries if entry not in started] == []


def test_readme_names_every_preset(readme, project):
    presets = {path.stem for path in (project / "trainer/configs").glob("*.toml")}
    rows = set(re.findall(r"^\| `([\w-]+)` \|", readme, re.MULTILINE))
    assert presets and presets == rows


def test_readme_uses_flags_that_exist(readme, project, entries):
    known = {option.flag for option in options().values()} | OTHERS_FLAGS
    for entry in entries:
        known |= set(re.findall(r'"(--[a-z-]+)"', (project / entry).read_text("utf-8")))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", readme)) - known == set()


def test_both_readmes_have_the_same_blocks_and_sections(project):
    english, chinese = ((project / name).read_text("utf-8") for name in READMES)
    assert blocks(english) == blocks(chinese)
    for mark in (r"^#+ ", r"^\|", r"^- "):
        assert len(re.findall(mark, english, re.M)) == len(re.findall(mark, chinese, re.M)), mark


def test_each_of_the_two_commands_is_one_line_that_makes_its_environment(readme):
    lines = [line for line in commands(readme) if "venv" in line]
    demo, tests = lines
    assert demo.startswith("python3 -m venv .venv && ") and "--preset demo" in demo
    assert tests.startswith("python3 -m venv .venv-test && ") and tests.endswith(" -m pytest")
    windows = commands(readme, "powershell")
    for line, twin in zip(lines, windows, strict=True):
        assert as_windows(line) == twin


def as_windows(line: str) -> str:
    """README's form for PowerShell: `py`, Scripts, backslashes in paths, `;` between commands."""
    line = line.replace("python3 ", "py ").replace(" && ", "; ").replace("/bin/", "/Scripts/")
    paths = r"(?<= )[\w.-]+(?:/[\w.-]+)+"
    return re.sub(paths, lambda path: path[0].replace("/", "\\"), line)


def test_continuous_integration_runs_readmes_own_test_command(project):
    text = (project / "README.md").read_text("utf-8")
    (line,) = (line for line in commands(text) if "pytest" in line)
    (windows,) = (line for line in commands(text, "powershell") if "pytest" in line)
    assert line in (project / ".ci/run").read_text("utf-8")
    workflow = (project / ".github/workflows/ci.yml").read_text("utf-8")
    assert line in workflow
    assert windows.replace("py -m venv", "python -m venv") in workflow


def test_links_lead_somewhere(project, sources):
    for file in sources:
        if file.suffix != ".md" or file.parts[0] == "tests":
            continue
        # ComfyUI's page looks for a help page's pictures from web/docs, wherever the page lies
        base = Path("web/docs") if file.is_relative_to("web/docs") else file.parent
        for target in re.findall(r"\]\(([^)#]+)", (project / file).read_text("utf-8")):
            if not target.startswith("https://"):
                assert (project / base / target).exists(), f"{file}: {target}"


def test_changelog_is_of_this_version(project):
    version = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    changelog = (project / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"^## \[([\d.]+)\]", changelog, re.MULTILINE)
    assert newest[1] == version


def test_the_map_of_the_code_is_complete(project, sources):
    """CONTRIBUTING.md names each module once, and none that is gone."""
    text = (project / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"^\| `([\w/]+\.py)` \| \S", text, re.MULTILINE)
    python = (file for file in sources if file.suffix == ".py")
    modules = {file.as_posix() for file in python if file.parts[0] in MAPPED}
    modules -= {name for name in modules if is_bare(project / name)}
    assert sorted(named) == sorted(modules)


def is_bare(path: Path) -> bool:
    """Whether a file holds a docstring alone, as a package's `__init__.py` may."""
    return len(ast.parse(path.read_text("utf-8")).body) <= 1
