"""What all nodes share: descriptions that any version takes, and the LATENT's rules."""

from importlib import import_module

import pytest
import torch
from comfy_api.latest import io


@pytest.fixture
def shared(node):
    """The pack's modules that nodes share, as ComfyUI loaded them."""
    shared = node("VAELabEncode").__module__.rsplit(".", 1)[0] + ".shared"
    return {part: import_module(f"{shared}.{part}") for part in ("schema", "latent_dict", "loops")}


def test_unknown_keywords_of_a_schema_are_dropped(shared):
    schema = shared["schema"].node_schema(node_id="X", search_aliases=["y"], not_a_keyword=1)
    assert schema.node_id == "X" and schema.category == "VAE Lab"
    port = shared["schema"].socket(io.Int, "n", default=3, advanced=True, not_a_keyword=1)
    assert port.id == "n" and port.default == 3


def test_an_error_names_its_node(shared):
    @shared["schema"].node_body("A Node")
    def execute():
        raise ValueError("expected more")

    with pytest.raises(ValueError, match="^A Node: expected more"):
        execute()


def test_a_cancelled_loop_ends_before_its_next_item(shared):
    import comfy.model_management as management

    seen = []
    with pytest.raises(management.InterruptProcessingException):
        for item in shared["loops"].progress([1, 2, 3]):
            seen.append(item)
            management.interrupt_current_processing(True)
    assert seen == [1]


def test_items_keep_their_masks_and_indices(shared):
    latent = {
        "samples": torch.zeros(3, 4, 2, 2),
        "noise_mask": torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2),
        "batch_index": [5, 6, 7],
        "other": "stays",
    }
    new = shared["latent_dict"].replaced(latent, torch.ones(4, 4, 2, 2), [0, 0, 2, 2])
    assert new["noise_mask"][:, 0, 0, 0].tolist() == [0, 0, 2, 2]
    assert new["batch_index"] == [5, 5, 7, 7] and new["other"] == "stays"
    assert latent["batch_index"] == [5, 6, 7] and latent["samples"].shape[0] == 3


def test_fewer_masks_than_items_are_repeated_as_core_does(shared):
    latent = {"samples": torch.zeros(4, 4, 2, 2), "noise_mask": torch.eye(2).view(2, 1, 2, 1)}
    new = shared["latent_dict"].replaced(latent, torch.zeros(1, 4, 2, 2), [3])
    assert torch.equal(new["noise_mask"], latent["noise_mask"][1:2])


def test_a_mask_of_a_video_s_frames_stays_whole(shared):
    frames = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0))
    latent = {"samples": torch.zeros(1, 16, 5, 2, 2), "noise_mask": frames}
    new = shared["latent_dict"].replaced(latent, torch.zeros(3, 16, 5, 2, 2), [0, 0, 0])
    assert new["noise_mask"] is frames


BAD = [
    ({}, "LATENT"),
    ({"samples": torch.zeros(0, 4, 8, 8)}, r"empty shape \[0, 4, 8, 8\]"),
    ({"samples": torch.zeros(1, 4, 0, 8)}, "empty shape"),
    ({"samples": torch.zeros(1, 4, 8)}, "audio"),
    ({"samples": torch.zeros(1, 4, 8, 8, dtype=torch.int64)}, "int64"),
]


@pytest.mark.parametrize(("latent", "words"), BAD)
def test_a_latent_that_is_none_is_refused(shared, latent, words):
    with pytest.raises(ValueError, match=words):
        shared["latent_dict"].read_samples(latent)


def test_a_nested_latent_is_refused(shared):
    from comfy.nested_tensor import NestedTensor

    with pytest.raises(ValueError, match="nested"):
        shared["latent_dict"].read_samples({"samples": NestedTensor([torch.zeros(1)])})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 3.0, 10**4000])
def test_a_number_out_of_range_is_refused(shared, value):
    with pytest.raises(ValueError, match="from 0 to 2"):
        shared["latent_dict"].checked_number(value, "strength", 0, 2)
