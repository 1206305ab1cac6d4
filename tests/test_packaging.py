"""What pip, ComfyUI's registry and its manager read: dependencies, versions, files that ship."""

import ast
import re
from importlib.metadata import packages_distributions

import pytest
import tomllib
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

WORKFLOWS = ("publish.yml", "ci.yml")
OPTIONAL = {"bitsandbytes", "wandb"}  # imported only where a user has installed and asked for them


@pytest.fixture(scope="module")
def pyproject(project):
    return tomllib.loads((project / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def extras(pyproject):
    """The requirements of each extra, by distribution name."""
    return {
        name: {canonicalize_name(r.name): r for r in map(Requirement, lines)}
        for name, lines in pyproject["project"]["optional-dependencies"].items()
    }


@pytest.fixture(scope="module")
def constraints(project):
    lines = (project / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_nodes_need_nothing(pyproject):
    """A node user's ComfyUI must never be made to install a training stack."""
    assert pyproject["project"]["dependencies"] == []


def test_nothing_is_installed_as_a_module(pyproject):
    assert pyproject["tool"]["setuptools"] == {"packages": [], "py-modules": []}


def test_extras_give_lower_bounds_only(extras):
    for requirements in extras.values():
        for requirement in requirements.values():
            operators = {specifier.operator for specifier in requirement.specifier}
            assert operators <= {">="}, requirement
    assert "torch" not in extras["train"]
    assert extras["test"].keys() == {"vae-lab", "pytest"}
    assert extras["test"]["vae-lab"].extras == {"train"}


def test_every_import_of_the_trainer_is_in_its_extra(project, sources, extras):
    """Nothing works only because some other package happens to bring it along."""
    homes = packages_distributions()
    known = {*extras["train"], "torch", *OPTIONAL}
    for file in sources:
        if file.suffix != ".py" or file.parts[0] not in {"trainer", "vae_core"}:
            continue
        for name in absolute_imports((project / file).read_text("utf-8")):
            distributions = {canonicalize_name(home) for home in homes.get(name, [])} or {name}
            if name in homes or name in OPTIONAL:
                assert distributions & known, f"{file} imports {name}: {distributions}"


def absolute_imports(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def test_constraints_are_exact_and_hold_all_that_is_asked_for(constraints, extras):
    pinned = {}
    for requirement in constraints:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "+" not in specifier.version, requirement
        pinned[canonicalize_name(requirement.name)] = specifier.version
    assert pinned["torch"] == "2.13.0"
    wanted = {**extras["train"], "pytest": extras["test"]["pytest"]}
    for name, requirement in wanted.items():
        assert requirement.specifier.contains(pinned[name]), requirement


def test_comfyui_environment_runs_the_same_torch(project, constraints):
    lines = (project / "tests/comfyui/requirements.txt").read_text("utf-8").splitlines()
    (torch,) = (requirement for requirement in constraints if requirement.name == "torch")
    assert str(torch) in lines


def test_registry_fields(pyproject):
    about, comfy = pyproject["project"], pyproject["tool"]["comfy"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert "comfy" not in about["name"]
    assert about["urls"]["Repository"].startswith("https://github.com/")
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert comfy["requires-comfyui"] == ">=0.3.75"


def test_publishing_waits_for_the_tests_and_for_the_right_owner(project):
    folder = project / ".github/workflows"
    publish, ci = (yaml.safe_load((folder / name).read_text("utf-8"))["jobs"] for name in WORKFLOWS)
    assert publish["publish"]["needs"] == "tests"
    assert publish["publish"]["if"].startswith("github.repository_owner == ")
    systems = {name.partition("-")[0] for name in ci["tests"]["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "windows", "macos"}


def test_the_registry_s_icon_is_there_and_small(project, pyproject):
    comfy = pyproject["tool"]["comfy"]
    file = project / comfy["Icon"].partition("/main/")[2]
    with Image.open(file) as icon:
        assert icon.width == icon.height <= 400


def test_ignore_files_hold_plain_names(project):
    """The tests read them with a simple rule (conftest.py): names, `*`, a slash at either end."""
    for name in (".gitignore", ".comfyignore"):
        for line in (project / name).read_text("utf-8").splitlines():
            assert line.startswith("#") or re.fullmatch(r"/?[\w.*-]+/?", line), (name, line)


def test_the_archive_holds_the_nodes_and_what_they_need(project, shipped):
    names = {file.as_posix() for file in shipped}
    needed = {"__init__.py", "nodes/__init__.py", "vae_core/__init__.py", "pyproject.toml"}
    needed |= {"LICENSE", "README.md", "models/kl-f8-small/vae.safetensors"}
    needed |= {"locales/zh/nodeDefs.json", "web/docs/VAELabEncode/en.md"}
    assert needed <= names
    assert not {file.parts[0] for file in shipped} & {"tests", "trainer", "benchmarks", ".github"}
    assert sum((project / file).stat().st_size for file in shipped) < 20e6


def test_no_working_file_counts_as_a_source(sources):
    assert not [file for file in sources if file.suffix in {".pyc", ".pt", ".bin", ".ckpt", ".log"}]
