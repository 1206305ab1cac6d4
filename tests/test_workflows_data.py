"""The shipped workflows as data: what can be told without a ComfyUI."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
TASKS = {
    "clean-to-noise",
    "compare-two-vaes",
    "disturb-a-latent",
    "encode-decode-diff",
    "inspect",
    "interpolate-moons",
    "interpolate-photos",
    "round-trip-drift",
    "the-prior",
}
OF_CORE = {
    *("ImageBatch", "ImageBlend", "ImageBlur", "ImageCrop", "ImageRotate", "ImageScale"),
    *("ImageToMask", "SolidMask", "ThresholdMask"),
    *("LoadImage", "MaskComposite", "MaskToImage", "PreviewAny", "PreviewImage"),
}
NOTE = "MarkdownNote"

each = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)


def read(file: Path) -> dict:
    return json.loads(file.read_text("utf-8"))


def node_ids() -> set[str]:
    texts = [file.read_text("utf-8") for file in (ROOT / "nodes").rglob("*.py")]
    return {found for text in texts for found in re.findall(r'node_id="(VAELab\w+)"', text)}


def test_there_is_one_for_every_task():
    assert {file.stem for file in WORKFLOWS} == TASKS
    assert {file.stem for file in (ROOT / "workflows").glob("*.jpg")} == TASKS


def test_every_node_of_the_pack_but_rescale_is_in_one():
    used = {node["type"] for file in WORKFLOWS for node in read(file)["nodes"]}
    assert node_ids() - used == {"VAELabLatentRescale"}  # it shows nothing by itself


@each
def test_only_nodes_of_core_and_of_this_pack(file):
    types = {node["type"] for node in read(file)["nodes"]}
    assert types <= OF_CORE | node_ids() | {NOTE}
    assert NOTE in types


@each
def test_ui_format_with_links_that_agree(file):
    """Each link stands at both of its ends, once, and an input has at most one."""
    workflow = read(file)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    links = {link[0]: link[1:] for link in workflow["links"]}
    assert len(links) == len(workflow["links"])
    for key, (source, output, target, place, kind) in links.items():
        start, end = nodes[source]["outputs"][output], nodes[target]["inputs"][place]
        assert key in start["links"] and end["link"] == key
        assert {kind, end["type"]} <= {start["type"], "*"}
    at_inputs = [i["link"] for node in nodes.values() for i in node["inputs"]]
    at_outputs = [o["links"] or [] for node in nodes.values() for o in node["outputs"]]
    assert sorted(link for link in at_inputs if link is not None) == sorted(links)
    assert sorted(sum(at_outputs, [])) == sorted(links)
    assert workflow["last_node_id"] >= max(nodes) and workflow["last_link_id"] >= max(links)


@each
def test_nothing_of_the_machine_it_was_made_on(file):
    text = file.read_text("utf-8")
    assert not re.search(r"(?<![\w*.])/(home|root|tmp|work|usr|Users|mnt)\b|[A-Za-z]:\\\\", text)
    assert "file:" not in text and "http" not in text


@each
def test_it_starts_from_what_everybody_has(file):
    for node in read(file)["nodes"]:
        values = node.get("widgets_values", [])
        if node["type"] == "LoadImage":
            assert values[0] == "example.png"
        if node["type"] == "VAELabLoadVAE":
            assert values[0] == "kl-f8-small (bundled)"
        if node["type"] == "ImageScale":
            assert values[-1] == "center"  # anything else stretches
        assert "randomize" not in values


@each
def test_nodes_do_not_lie_over_one_another(file):
    title = 30
    boxes = [(*n["pos"], *n["size"]) for n in read(file)["nodes"]]
    for i, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:i]:
            apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 - title or y2 + h2 <= y - title
            assert apart


@each
def test_its_picture_is_small_and_whole(file):
    picture = file.with_suffix(".jpg")
    assert picture.stat().st_size <= 200_000
    with Image.open(picture) as image:
        image.load()
        assert image.format == "JPEG" and min(image.size) >= 200 and image.mode == "RGB"
