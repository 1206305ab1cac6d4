"""The shipped workflows in a running ComfyUI server, as the prompts that they stand for."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
PROMPTS = sorted(Path(__file__).with_name("prompts").glob("*.json"))

each = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)


@pytest.fixture(scope="module")
def info(server) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.fixture(scope="module")
def example(server, comfyui) -> None:
    """ComfyUI's own example picture where its input folder would have it."""
    shutil.copy(comfyui.code / "input" / "example.png", server.base / "input")


def read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def prompt_of(workflow: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Turn a workflow without subgraphs, muted nodes or reroutes into API format."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] not in info:
            continue  # a note
        inputs = widgets_of(node, info[node["type"]])
        wired = {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | wired}
    return prompt


def widgets_of(node: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """Name the values of a node's widgets, which a workflow keeps by position.

    Saved before optional widgets were added, it ends before them: they have their defaults.
    """
    optional = described["input"].get("optional", {})
    entries = described["input"].get("required", {}) | optional
    values, found = iter(node.get("widgets_values", [])), {}
    for name, entry in entries.items():
        options = entry[1] if len(entry) > 1 else {}
        if not (isinstance(entry[0], list) or entry[0] in WIDGETS) or options.get("forceInput"):
            continue
        value = next(values, None)
        if value is None and name in optional:
            break
        found[name] = value
        if options.get("control_after_generate"):
            assert next(values) == "fixed"
    left = list(values)  # LoadImage's upload button, what Preview Any showed
    assert not left or node["type"] in ("LoadImage", "PreviewAny")
    return found


WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def test_each_has_a_prompt_and_each_prompt_a_workflow():
    assert [file.stem for file in WORKFLOWS] == [file.stem for file in PROMPTS] != []


@each
def test_workflow_and_prompt_are_the_same(file, info):
    """What the page shows is what the tests queue: same nodes, same values, same links."""
    prompt = read(Path(__file__).parent / "prompts" / file.name)
    kept = {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for key, node in prompt.items()
    }
    assert prompt_of(read(file), info) == kept


@each
def test_it_runs(file, server, example, info, capsys):
    server.post("/free", {"unload_models": True, "free_memory": True})
    began = time.monotonic()
    entry = server.queue(prompt_of(read(file), info), 300)
    took = time.monotonic() - began
    failed = [m[1]["exception_message"] for m in entry["status"]["messages"] if "error" in m[0]]
    assert entry["status"]["status_str"] == "success", failed
    pictures = [i for output in entry["outputs"].values() for i in output.get("images", [])]
    assert pictures
    with capsys.disabled():
        print(f"\n{file.stem}: {took:.1f} s, {len(pictures)} pictures", end=" ")
