"""Exact tiles in the nodes: the same pictures as whole, and what is done when memory runs out."""

import math

import pytest
import torch
from pictures import picture

CLOSE = {"atol": 2e-4 / 2, "rtol": 0}  # 2e-4 in [-1, 1], pictures are in 0..1
MIB = 2**20


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1), ((136, 200), 2), ((8, 264), 1)])
def test_exact_and_off_decode_to_the_same_picture(encode, decode, size, count):
    latent, *_ = encode(picture(*size, count))
    whole, said = decode(latent, tiling="off")
    tiles, said_of_tiles = decode(latent, tiling="exact")
    assert tiles.shape == whole.shape and tiles.dtype == whole.dtype
    torch.testing.assert_close(tiles, whole, **CLOSE)
    assert "decoded in exact tiles (as chosen)" in said_of_tiles and "tiles" not in said


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1), ((136, 203), 2)])
def test_exact_and_off_encode_to_the_same_posterior(encode, size, count):
    images = picture(*size, count)
    drawn = {"posterior": "sample", "seed": 3}
    for widgets in ({}, drawn):
        whole, std, kl, _, said = encode(images, tiling="off", **widgets)
        tiles, std_of_tiles, kl_of_tiles, _, said_of_tiles = encode(
            images, tiling="exact", **widgets
        )
        torch.testing.assert_close(tiles["samples"], whole["samples"], atol=2e-4, rtol=1e-5)
        torch.testing.assert_close(std_of_tiles["samples"], std["samples"], atol=1e-5, rtol=1e-4)
        assert kl_of_tiles == pytest.approx(kl, rel=1e-5)
        assert "encoded in exact tiles" in said_of_tiles and "tiles" not in said


def test_round_trips_in_exact_tiles_are_the_same_round_trips(reconstruct):
    images = picture(64, 136)
    drawn = {"trips": 2, "posterior": "sample", "seed": 5}
    whole, tiles = (reconstruct(images, tiling=name, **drawn) for name in ("off", "exact"))
    torch.testing.assert_close(tiles[1], whole[1], atol=5e-4, rtol=0)  # two trips add up
    assert tiles[3] == pytest.approx(whole[3], abs=0.01)
    for step in ("encoded", "decoded"):
        assert tiles[5].count(f"{step} in exact tiles") == 1 and step not in whole[5]


def test_auto_is_the_whole_pass_where_that_fits(encode, decode):
    images = picture(64, 64)
    for whole, auto in zip(encode(images, tiling="off"), encode(images), strict=True):
        whole, auto = (
            each["samples"] if isinstance(each, dict) else each for each in (whole, auto)
        )
        assert torch.equal(whole, auto) if isinstance(whole, torch.Tensor) else whole == auto
    latent, *_ = encode(images)
    assert torch.equal(decode(latent)[0], decode(latent, tiling="off")[0])


def test_auto_keeps_within_a_budget_that_is_too_small_for_the_whole_pass(encode, decode):
    images = picture(256, 256)
    latent, *_, said_of_encode = encode(images, memory_budget=20)
    whole, _ = decode(latent, tiling="off")
    tiles, said = decode(latent, memory_budget=20)
    torch.testing.assert_close(tiles, whole, **CLOSE)
    for text in (said, said_of_encode):
        assert "20 MiB are allowed" in text and "computed twice" in text
    assert "tiles" not in decode(latent, memory_budget=1000)[1]


def test_a_budget_below_the_least_is_refused_with_the_least(encode, decode):
    latent, *_ = encode(picture(256, 256))
    with pytest.raises(
        ValueError, match=r"^VAE Decode \(Scaled\): .* at least (\d+) MiB"
    ) as caught:
        decode(latent, tiling="exact", memory_budget=1)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    decode(latent, tiling="exact", memory_budget=least + 1)


@pytest.mark.parametrize("number", [-1, math.nan, math.inf, 2**63, 10**400, -(2**63)])
@pytest.mark.parametrize("of", ["encode", "decode", "reconstruct"])
def test_hostile_budgets_are_refused(request, of, number):
    given = {"samples": torch.zeros(1, 4, 8, 8)} if of == "decode" else picture(64, 64)
    with pytest.raises(ValueError, match="expected memory_budget from 0 to"):
        request.getfixturevalue(of)(given, memory_budget=number)


def test_a_choice_off_the_list_is_refused(decode):
    with pytest.raises(ValueError, match="expected tiling among auto, off, exact"):
        decode({"samples": torch.zeros(1, 4, 8, 8)}, tiling="tiles")


@pytest.fixture
def too_wide(vae, monkeypatch):
    """ComfyUI's model runs out of memory over all that is wider than its own tiles are."""
    import comfy.model_management as management

    def limited(own, widest):
        def run(given, *more, **options):
            if given.shape[-1] > widest:
                raise management.OOM_EXCEPTION("Allocation on device 0 would exceed allowed memory")
            return own(given, *more, **options)

        return run

    model = vae.first_stage_model
    monkeypatch.setattr(model, "decode", limited(model.decode, 128))
    monkeypatch.setattr(model, "encode", limited(model.encode, 1024))


def test_an_out_of_memory_error_leads_to_exact_tiles(encode, decode, request, vae):
    images = picture(40, 1056, 2)
    before = encode(images, posterior="sample", seed=2)
    whole, _ = decode(before[0])
    request.getfixturevalue("too_wide")
    after = encode(images, posterior="sample", seed=2)
    tiles, said = decode(before[0])
    torch.testing.assert_close(tiles, whole, **CLOSE)
    torch.testing.assert_close(after[0]["samples"], before[0]["samples"], atol=2e-4, rtol=1e-5)
    for text in (said, after[4]):
        assert "in exact tiles (the whole pass ran out of memory)" in text
    with pytest.raises(Exception, match="Allocation on device 0"):
        vae.first_stage_model.decode(before[0]["samples"])  # what stood there stands there again


def test_a_batch_that_ran_out_of_memory_half_way_has_one_posterior_a_picture(
    encode, vae, monkeypatch
):
    images = picture(40, 64, 3)
    expected = encode(images)
    own, calls = vae.first_stage_model.encode, []

    def fail_at_the_second(*given):
        calls.append(given)
        if len(calls) == 2:
            raise MemoryError
        return own(*given)

    monkeypatch.setattr(vae, "memory_used_encode", lambda *_: 2**60)  # ComfyUI takes one by one
    monkeypatch.setattr(vae.first_stage_model, "encode", fail_at_the_second)
    found = encode(images)
    assert len(calls) == 2 and "the whole pass ran out of memory" in found[4]
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours["samples"], theirs["samples"], atol=2e-4, rtol=1e-4)
    assert found[2] == pytest.approx(expected[2], rel=1e-5)


def test_another_error_than_memory_is_not_hidden(decode, vae, monkeypatch):
    def fail(*given):
        raise RuntimeError("something else")

    monkeypatch.setattr(vae.first_stage_model, "decode", fail)
    with pytest.raises(RuntimeError, match="something else"):
        decode({"samples": torch.zeros(1, 4, 8, 8)})


@pytest.fixture
def limited():
    """A function that lets this process take so many bytes more, and no others."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)

    def limit(more):
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_memory_that_truly_runs_out_leads_to_exact_tiles(encode, decode, limited):
    """The system refuses: the scores of ComfyUI's attention alone take 313 MiB at 640 x 640."""
    latent, *_ = encode(picture(640, 640), tiling="exact")
    whole, _ = decode(latent, tiling="off")
    assert "315 MiB are allowed" in decode(latent, memory_budget=315)[1]  # 300 without the scores
    limited(260 * MIB)
    tiles, said = decode(latent)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        decode(latent, tiling="off")
    torch.testing.assert_close(tiles, whole, **CLOSE)
    assert "the whole pass ran out of memory" in said


@pytest.fixture
def scarce(monkeypatch):
    """A function that lets memory run out at so many convolutions after `calls` others."""
    own = torch.nn.functional.conv2d

    def scarce_from(calls, failures):
        seen = []

        def conv2d(*given, **options):
            seen.append(given[0].shape)
            if calls < len(seen) <= calls + failures:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return own(*given, **options)

        monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
        return seen

    return scarce_from


def test_exact_tiles_that_run_out_of_memory_are_tried_with_the_least(decode, scarce, caplog):
    latent = {"samples": torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(0))}
    expected, said = decode(latent, tiling="exact")
    most = int(said.split("(as chosen), ")[1].split()[0])
    scarce(100, 1)
    found, said = decode(latent, tiling="exact")
    torch.testing.assert_close(found, expected, **CLOSE)
    first, planned = said.split(f"(as chosen; tiles of {most} MiB ran out of memory), ")
    least = int(planned.split()[0])
    assert "\ndecoded in exact tiles " in first and least < most
    assert f"tiles of {most} MiB ran out of memory, trying {least} MiB." in caplog.text
    with pytest.raises(ValueError, match=rf"at least {least + 1} MiB"):
        decode(latent, tiling="exact", memory_budget=least - 1)


@pytest.mark.parametrize(
    ("budget", "tries", "way_out"),
    [(0, 2, "end other programs"), (20, 1, "set memory_budget lower")],
)
def test_exact_tiles_that_find_no_memory_at_all_end_with_a_sentence(
    decode, scarce, budget, tries, way_out
):
    """Once more with the least, where no budget was chosen; then no more."""
    seen = scarce(0, 1000)
    with pytest.raises(MemoryError, match=rf"^Expected \d+ MiB .*: {way_out}, or take a smaller"):
        decode({"samples": torch.zeros(1, 4, 32, 32)}, tiling="exact", memory_budget=budget)
    assert len(seen) == tries


def test_what_is_free_is_not_called_a_budget(decode, monkeypatch):
    import comfy.model_management as management

    monkeypatch.setattr(management, "get_free_memory", lambda *_, **__: 10 * MIB)
    with pytest.raises(ValueError, match=r"at least \d+ MiB of free memory .*, got 9 MiB"):
        decode({"samples": torch.zeros(1, 4, 64, 64)})


def cancelling(monkeypatch, after):
    """Let ComfyUI be told to stop at the bar's move of this number; gives the moves."""
    import comfy.model_management as management
    import comfy.utils

    moves = []

    def hook(value, total, *_, **__):
        moves.append((value, total))
        if len(moves) == after:
            management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    # newer versions leave out what follows within a tenth of a second
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0, raising=False)
    return moves


def test_a_cancelled_decode_ends_within_the_picture_and_the_next_is_well(
    encode, decode, monkeypatch
):
    import comfy.model_management as management

    latent, *_ = encode(picture(256, 256))
    whole, _ = decode(latent, tiling="off")
    with monkeypatch.context() as patch:
        moves = cancelling(patch, 3)
        with pytest.raises(management.InterruptProcessingException):
            decode(latent, tiling="exact", memory_budget=20)
    assert len(moves) == 3 and moves[-1][0] < moves[-1][1]
    torch.testing.assert_close(decode(latent, tiling="exact")[0], whole, **CLOSE)


def test_the_bar_moves_within_a_picture_to_its_end(encode, monkeypatch):
    moves = cancelling(monkeypatch, 0)
    encode(picture(256, 256), tiling="exact", memory_budget=20)
    assert [value for value, _ in moves] == sorted(value for value, _ in moves)
    assert len(moves) > 10 and moves[-1] == (100, 100)


def test_a_vae_of_another_shape_is_left_to_comfyui_with_a_sentence(node, run, pixel_vae):
    images = picture(24, 40)
    auto, *_, said = run(node("VAELabEncode"), pixels=images, vae=pixel_vae)
    assert "encoded by ComfyUI, in its own tiles if memory runs out: " in said
    tiles, *_, said = run(node("VAELabEncode"), pixels=images, vae=pixel_vae, tiling="exact")
    assert "encoded in ComfyUI's own tiles, which are not exact: Expected an AutoencoderKL" in said
    torch.testing.assert_close(tiles["samples"], auto["samples"])
    image, said = run(node("VAELabDecode"), samples=tiles, vae=pixel_vae, tiling="exact")
    torch.testing.assert_close(image, images)
    assert "decoded in ComfyUI's own tiles" in said
    off = run(node("VAELabEncode"), pixels=images, vae=pixel_vae, tiling="off")
    assert "ComfyUI's own tiles" not in off[4]


def test_a_video_is_decoded_in_comfyui_s_own_tiles(node, run, video_vae):
    frames = picture(32, 48, count=5)
    latent, *_, said = run(node("VAELabEncode"), pixels=frames, vae=video_vae, tiling="exact")
    assert "ComfyUI's own tiles" in said
    with torch.inference_mode():
        theirs = node("VAEEncodeTiled")().encode(video_vae, frames, 512, 64)[0]
        pictures = node("VAEDecodeTiled")().decode(video_vae, theirs, 512)[0]
    assert torch.equal(latent["samples"], theirs["samples"])
    image, said = run(node("VAELabDecode"), samples=latent, vae=video_vae, tiling="exact")
    assert torch.equal(image, pictures) and "ComfyUI's own tiles" in said


@pytest.mark.parametrize("tiling", ["auto", "off", "exact"])
def test_a_vae_without_weights_fails_as_in_core(decode, tiling):
    import comfy.sd

    empty = comfy.sd.VAE(sd={"nothing": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        decode({"samples": torch.zeros(1, 4, 8, 8)}, vae=empty, tiling=tiling)


def test_a_vae_that_decodes_in_its_own_way_keeps_it(decode, vae, monkeypatch):
    """Packs derive from ComfyUI's class: exact tiles would pass by what they do."""

    class Brighter(type(vae)):
        def decode(self, *given):
            return super().decode(*given) + 1

    monkeypatch.setattr(vae, "__class__", Brighter)
    image, said = decode({"samples": torch.zeros(1, 4, 8, 8)})
    assert image.min() >= 1 and "Brighter has a way of its own" in said
