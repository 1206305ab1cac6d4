"""What a user reads: every socket explained, in English and Chinese, and a help page per node."""

import json
import re
from typing import Any

import pytest
from comfy_api.latest import io
from conftest import PACK

IDS = [
    "VAELabEncode",
    "VAELabDecode",
    "VAELabLatentInterpolate",
    "VAELabLatentNoise",
    "VAELabReconstructionDiff",
    "VAELabLatentRescale",
    "VAELabReconstruct",
    "VAELabLatentInspect",
    "VAELabLatentSample",
    "VAELabLoadVAE",
]
LANGUAGES = ("en", "zh")
NEWER = {"compare_view": hasattr(io, "ImageCompare")}


@pytest.fixture(params=IDS)
def schema(request, node):
    return node(request.param).define_schema()


def locale(language: str) -> dict[str, Any]:
    return json.loads((PACK / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def options(part: Any) -> list[str]:
    found = getattr(part, "options", None) or []
    return [option for option in found if isinstance(option, str)]


def test_the_pack_holds_these_nodes(node):
    import nodes as core

    node(IDS[0])
    assert [name for name in core.NODE_CLASS_MAPPINGS if name.startswith("VAELab")] == IDS


def test_every_socket_has_a_tooltip(schema):
    silent = [part.id for part in [*schema.inputs, *schema.outputs] if not part.tooltip]
    assert silent == [] and schema.description and schema.category == "VAE Lab"


def test_english_texts_are_those_of_the_schema(schema):
    texts = locale("en")[schema.node_id]
    assert (texts["display_name"], texts["description"]) == (
        schema.display_name,
        schema.description,
    )
    tooltips = {name: entry["tooltip"] for name, entry in texts["inputs"].items()}
    assert {part.id: part.tooltip for part in schema.inputs} == known(tooltips)
    assert [part.tooltip for part in schema.outputs] == [
        texts["outputs"][str(index)]["tooltip"] for index in range(len(schema.outputs))
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_complete(schema, language):
    texts = locale(language)[schema.node_id]
    assert texts["display_name"] and texts["description"]
    assert list(known(texts["inputs"])) == [part.id for part in schema.inputs]
    assert list(texts["outputs"]) == [str(index) for index in range(len(schema.outputs))]
    for entry in [*texts["inputs"].values(), *texts["outputs"].values()]:
        assert entry["name"] and entry["tooltip"]
    for part in schema.inputs:
        if not reads_files(part):
            assert list(texts["inputs"][part.id].get("options", {})) == options(part)


def known(texts: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the running ComfyUI has no socket for: its slider came with 0.9.0."""
    return {name: text for name, text in texts.items() if name not in NEWER or NEWER[name]}


def reads_files(part: Any) -> bool:
    """Whether a list shows what lies in a folder: such names are not translated."""
    return part.id == "vae_name"


def test_chinese_texts_are_chinese(schema):
    texts = locale("zh")[schema.node_id]
    parts = [texts, *texts["inputs"].values(), *texts["outputs"].values()]
    plain = [part for part in parts if not re.search("[一-鿿]", str(part.get("tooltip", part)))]
    assert plain == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_names_every_socket(schema, language):
    page = (PACK / "web/docs" / schema.node_id / f"{language}.md").read_text("utf-8")
    unnamed = [part.id for part in [*schema.inputs, *schema.outputs] if part.id not in page]
    assert unnamed == [] and page.startswith("# ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_left_of_a_node_that_is_gone(language):
    assert list(locale(language)) == IDS
    folders = {path.name for path in (PACK / "web/docs").iterdir() if path.is_dir()}
    assert folders - {"img"} == set(IDS)
