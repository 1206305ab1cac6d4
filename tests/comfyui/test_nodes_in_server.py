"""The ten nodes in a running ComfyUI server, through its own HTTP interface."""

import json
import math
import os
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from trainer.photos.demo_photos import demo_files

pytestmark = pytest.mark.comfyui

BUNDLED = "kl-f8-small (bundled)"
SNAPSHOT = Path(__file__).with_name("schema.json")

Prompt = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def info(server) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.fixture(scope="module")
def photo(server) -> str:
    """The demo's astronaut among the server's inputs, 200 x 168 pixels."""
    file = server.base / "input" / "astronaut.png"
    Image.open(demo_files("train")[0]).convert("RGB").resize((200, 168)).save(file)
    return file.name


@pytest.fixture(scope="module")
def part(info):
    """A function that writes one node of a prompt; widgets that are not given have defaults."""

    def write(kind: str, **inputs: Any) -> dict[str, Any]:
        required = info[kind]["input"].get("required", {})
        defaults = {name: default(entry) for name, entry in required.items()}
        given = {name: value for name, value in defaults.items() if value is not None}
        return {"class_type": kind, "inputs": given | inputs}

    return write


def default(entry: list[Any]) -> Any:
    """The default of a widget in /object_info; of a list without one, its first item."""
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    if "default" in options:
        return options["default"]
    listed = kind if isinstance(kind, list) else options.get("options", [])
    return listed[0] if listed else None


@pytest.fixture(scope="module")
def start(part, photo) -> Prompt:
    """Photo and VAE, encoded: what most prompts begin with."""
    return {
        "image": part("LoadImage", image=photo),
        "vae": part("VAELabLoadVAE", vae_name=BUNDLED),
        "encode": part("VAELabEncode", pixels=["image", 0], vae=["vae", 0]),
    }


def status(entry: dict[str, Any]) -> str:
    return entry["status"]["status_str"]


def error_of(entry: dict[str, Any]) -> str:
    """The sentence of the node that failed."""
    (message,) = [m[1] for m in entry["status"]["messages"] if m[0] == "execution_error"]
    return message["exception_message"]


def refusal(server, prompt: Prompt) -> str:
    """What a prompt fails with: at the door, or in the history."""
    try:
        return error_of(server.queue(prompt))
    except urllib.error.HTTPError as error:
        assert error.code == 400
        return error.read().decode()


def test_every_node_runs(server, part, start):
    prompt = start | {
        "decode": part("VAELabDecode", samples=["encode", 0], vae=["vae", 0]),
        "noise": part("VAELabLatentNoise", samples=["encode", 0]),
        "between": part(
            "VAELabLatentInterpolate", latent_a=["encode", 0], latent_b=["noise", 0], frames=3
        ),
        "frames": part("VAELabDecode", samples=["between", 0], vae=["vae", 0]),
        "sample": part("VAELabLatentSample", vae=["vae", 0]),
        "rescale": part("VAELabLatentRescale", samples=["sample", 0], scaling="SDXL"),
        "trips": part("VAELabReconstruct", pixels=["image", 0], vae=["vae", 0]),
        "inspect": part("VAELabLatentInspect", samples=["encode", 0], vae=["vae", 0]),
        "diff": part(
            "VAELabReconstructionDiff", original=["image", 0], reconstruction=["decode", 0]
        ),
        "keep": part("SaveLatent", samples=["rescale", 0]),
        "show": part("PreviewImage", images=["frames", 0]),
        "show trips": part("PreviewImage", images=["trips", 0]),
        "say": part("PreviewAny", source=["encode", 4]),
    }
    entry = server.queue(prompt)
    assert status(entry) == "success", error_of(entry)
    assert len(entry["outputs"]["show"]["images"]) == 3
    assert {node for node in prompt} >= entry["outputs"].keys() >= {"inspect", "diff", "keep"}


def test_the_schema_is_what_workflows_were_saved_with(info):
    """Workflows keep widgets by position: a change here breaks those that users have saved."""
    now = {name: shape(info[name]) for name in info if name.startswith("VAELab")}
    if os.environ.get("VAE_LAB_WRITE_SNAPSHOT") == "1":
        SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    assert now == json.loads(SNAPSHOT.read_text("utf-8"))


def shape(node: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        name: entry[0] if isinstance(entry[0], str) else "COMBO"
        for group in ("required", "optional")
        for name, entry in node["input"].get(group, {}).items()
        if entry[0] != "IMAGECOMPARE"  # the slider, last of all, came with 0.9.0
    }
    return {
        "inputs": inputs,
        "outputs": [list(pair) for pair in zip(node["output_name"], node["output"], strict=True)],
        "shows itself": node["output_node"],
    }


def test_a_bad_input_gives_its_sentence_and_the_server_lives(server, part, start):
    prompt = start | {
        "wide": part("EmptySD3LatentImage", width=64, height=64),
        "between": part("VAELabLatentInterpolate", latent_a=["encode", 0], latent_b=["wide", 0]),
        "keep": part("SaveLatent", samples=["between", 0]),
    }
    sentence = refusal(server, prompt)
    assert sentence.startswith("Latent Interpolate: ") and "16" in sentence and "4" in sentence
    assert server.get("/system_stats")


HOSTILE_NAMES = ["../x", "/etc/passwd", "..\\x", "C:\\x", "a\0b", "x" * 5000, ["vae"], {"a": 1}]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name)[:20])
def test_a_hostile_file_name_is_refused(server, part, name):
    prompt = {
        "vae": part("VAELabLoadVAE", vae_name=name),
        "sample": part("VAELabLatentSample", vae=["vae", 0]),
        "keep": part("SaveLatent", samples=["sample", 0]),
    }
    assert refusal(server, prompt)
    assert server.get("/system_stats")


@pytest.mark.parametrize("number", [math.nan, math.inf, -1, 2**63, 1e300])
def test_hostile_numbers_are_refused(server, part, start, number):
    prompt = start | {
        "between": part(
            "VAELabLatentInterpolate", latent_a=["encode", 0], latent_b=["encode", 0], frames=number
        ),
        "keep": part("SaveLatent", samples=["between", 0]),
    }
    assert refusal(server, prompt)
    assert server.get("/system_stats")


def test_an_interrupt_ends_the_loop(server, part, start):
    prompt = start | {
        "large": part("ImageScale", image=["image", 0], width=512, height=512),
        "trips": part("VAELabReconstruct", pixels=["large", 0], vae=["vae", 0], trips=64),
        "show": part("PreviewImage", images=["trips", 0]),
    }
    assert "execution_interrupted" in interrupted(server, prompt)


def test_an_interrupt_ends_a_decode_in_exact_tiles_and_the_server_lives(server, part, start):
    whole = start | {
        "decode": part("VAELabDecode", samples=["encode", 0], vae=["vae", 0], tiling="exact"),
        "show": part("PreviewImage", images=["decode", 0]),
    }
    large = {
        "wide": part("EmptyLatentImage", width=4096, height=4096),
        "vae": start["vae"],
        "decode": part("VAELabDecode", samples=["wide", 0], vae=["vae", 0], tiling="exact"),
        "show": part("PreviewImage", images=["decode", 0]),
    }
    assert "execution_interrupted" in interrupted(server, large)
    assert status(server.queue(whole)) == "success"


def interrupted(server, prompt: Prompt) -> list[str]:
    """Start a prompt and cancel it three seconds later; what its history says."""
    key = server.post("/prompt", {"prompt": prompt})["prompt_id"]
    time.sleep(3)
    running = server.get("/queue")["queue_running"]
    server.post("/interrupt", {})
    began = time.monotonic()
    while not server.get(f"/history/{key}"):
        assert time.monotonic() - began < 30
        time.sleep(0.2)
    assert running
    return [message[0] for message in server.get(f"/history/{key}")[key]["status"]["messages"]]


def saved(server, prompt: Prompt) -> torch.Tensor:
    """Run a prompt with a SaveLatent called "keep", from nothing; its tensor."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1)
    entry = server.queue(prompt)
    assert status(entry) == "success"
    (file,) = entry["outputs"]["keep"]["latents"]
    return load_file(server.base / "output" / file["subfolder"] / file["filename"])["latent_tensor"]


def test_the_same_photo_gives_the_same_bytes(server, part, start):
    prompt = start | {"keep": part("SaveLatent", samples=["encode", 0])}
    first, again = saved(server, prompt), saved(server, prompt)
    assert first.numpy().tobytes() == again.numpy().tobytes()


def test_twenty_runs_do_not_grow_memory(server, part, start):
    def run(seed: int) -> None:
        prompt = start | {
            "noise": part("VAELabLatentNoise", samples=["encode", 0], seed=seed),
            "decode": part("VAELabDecode", samples=["noise", 0], vae=["vae", 0]),
            "diff": part(
                "VAELabReconstructionDiff", original=["image", 0], reconstruction=["decode", 0]
            ),
        }
        assert status(server.queue(prompt)) == "success"

    for seed in range(8):
        run(seed)
    settled = resident_bytes(server.process.pid)
    for seed in range(8, 28):
        run(seed)
    grown = resident_bytes(server.process.pid) - settled
    # twenty runs that each kept one decoded picture more would grow by 8 MB; allocators breathe
    assert grown < 40e6


def resident_bytes(process: int) -> int:
    psutil = pytest.importorskip("psutil")
    return psutil.Process(process).memory_info().rss


def test_help_and_texts_are_served(server, pack_name):
    for language in ("en", "zh"):
        assert "VAELabEncode" in server.get("/i18n")[language]["nodeDefs"]
        page = server.text(f"/extensions/{pack_name}/docs/VAELabEncode/{language}.md")
        assert page.startswith("# VAE")
