"""What no node may do: write outside ComfyUI's folders, or speak to the network."""

import socket
import sys
from pathlib import Path

import pytest
import torch

WRITES = {"w", "a", "x", "+"}


@pytest.fixture
def graph(node, run, vae):
    """A function that runs every node once, on a small picture."""

    def go() -> None:
        pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        loaded, *_ = run(node("VAELabLoadVAE"), vae_name="kl-f8-small (bundled)")
        latent, *_ = run(node("VAELabEncode"), pixels=pixels, vae=loaded)
        image, _ = run(node("VAELabDecode"), samples=latent, vae=loaded)
        noisy, *_ = run(node("VAELabLatentNoise"), samples=latent)
        run(node("VAELabLatentInterpolate"), latent_a=latent, latent_b=noisy, frames=3)
        run(node("VAELabLatentSample"), vae=loaded)
        run(node("VAELabLatentRescale"), samples=latent, scaling="SDXL")
        run(node("VAELabReconstruct"), pixels=pixels, vae=loaded)
        run(node("VAELabLatentInspect"), samples=latent, vae=loaded)
        run(node("VAELabReconstructionDiff"), original=pixels, reconstruction=image)

    return go


def test_no_node_opens_a_socket(graph, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a node opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    graph()


def test_nothing_is_written_outside_comfyui_s_own_folders(graph, base):
    written, watching = [], [True]

    def watch(event, arguments):
        if watching and event == "open" and isinstance(arguments[0], str | bytes):
            name, mode, flags = arguments
            if WRITES & set(mode or "") or (flags or 0) & 3:  # O_WRONLY, O_RDWR
                written.append(Path(name if isinstance(name, str) else name.decode()).resolve())

    sys.addaudithook(watch)
    try:
        graph()
        (base / "seen").write_text("the watch is awake", encoding="utf-8")
    finally:
        watching.clear()
    assert base / "seen" in written
    assert [path for path in written if not path.is_relative_to(base)] == []
