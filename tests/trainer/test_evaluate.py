"""evaluate.py as people start it, on two tiny VAEs and real photos."""

import json
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from skimage import data

from tests.trainer.runs import forget_processes
from tests.trainer.test_identity import HOPPER, tiny_recognizer
from trainer.comparison import check_request, open_perceptual, open_vaes
from trainer.errors import UserError
from trainer.evaluate import main, parse

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ["--vae", "a", "--data", "d", "--output", "o"]


@pytest.fixture
def places(tmp_path: Path, tiny_vae: AutoencoderKL) -> Path:
    """Two VAEs, of which the second is the first with noise in its decoder, and photos."""
    tiny_vae.save_pretrained(tmp_path / "first")
    noise = torch.randn(
        tiny_vae.decoder.conv_out.weight.shape, generator=torch.Generator().manual_seed(0)
    )
    tiny_vae.decoder.conv_out.weight.data += noise
    tiny_vae.save_pretrained(tmp_path / "second")
    for folder, photos in (("faces", [data.astronaut, data.chelsea]), ("general", [data.coffee])):
        (tmp_path / folder).mkdir()
        for load in photos:
            path = tmp_path / folder / f"{load.__name__}.png"
            Image.fromarray(load()).resize((48, 48)).save(path)
    (tmp_path / "faces" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path


@pytest.fixture
def signals() -> Iterator[None]:
    """Give Ctrl-C back to pytest."""
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)


@pytest.mark.slow
def test_the_entry_starts_as_a_file_from_another_folder() -> None:
    command = [sys.executable, str(ROOT / "trainer" / "evaluate.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0 and done.stdout.startswith("usage: evaluate.py"), done.stderr


def test_the_bundled_vae_goes_by_its_name() -> None:
    options = parse([*NEEDED[2:], "--vae", "bundled:kl-f8-small", "--lpips-net", "none"])
    (vae,) = open_vaes(options).values()
    assert list(vae.config.block_out_channels) == [32, 64, 96, 128]


@pytest.mark.usefixtures("signals")
def test_two_vaes_are_compared_under_the_names_they_were_given(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(places / name) for name in ("second", "first")]
    out = places / "new" / "out"
    arguments = [
        "--vae", names[0], "--vae", names[1], "--data", str(places / "faces"),
        "--general-val-data", str(places / "general"), "--output", str(out),
        "--lpips-net", "none",
    ]  # fmt: skip
    forget_processes()
    assert main(arguments) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert list(report["models"]) == names
    for name in names:
        assert report["models"][name]["val"]["all"]["n"] == 2
        assert report["models"][name]["general"]["all"]["n"] == 1
    psnr = [report["models"][name]["val"]["all"]["psnr"] for name in names]
    assert report["difference"][names[1]]["val"]["all"]["psnr"]["difference"] == pytest.approx(
        psnr[1] - psnr[0]
    )
    assert sum(report["data"]["val"]["skipped"].values()) == 1
    assert report["lpips_net"] is None
    said = capsys.readouterr().out
    assert f"{psnr[0]:.2f}" in said and "report.html" in said
    html = (out / "report.html").read_text(encoding="utf-8")
    assert html.count('class="stage"') == 3 and str(places) not in html


@pytest.mark.usefixtures("signals")
def test_small_faces_come_from_sheets_and_identity_from_its_file(
    tmp_path: Path, small_vae: AutoencoderKL, assets: Path
) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(HOPPER, tmp_path / "photos")
    (tmp_path / "tiny.onnx").write_bytes(tiny_recognizer())
    small_vae.save_pretrained(tmp_path / "vae")
    detector = assets / "models" / "face_detection_yunet_2023mar.onnx"
    forget_processes()
    arguments = [
        "--vae", tmp_path / "vae", "--data", tmp_path / "photos", "--output", tmp_path / "out",
        "--lpips-net", "none", "--face-detector-weights", detector,
        "--face-recognizer-weights", tmp_path / "tiny.onnx",
    ]  # fmt: skip
    assert main([str(part) for part in arguments]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    (found,) = (model["val"] for model in report["models"].values())
    assert (found["faces_small"]["faces"], found["faces_small"]["from_sheets"]) == (1, 1)
    assert 0 < found["faces_small"]["identity"] < 1 and 0 < found["faces_large"]["identity"] < 1
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "48 px high as measured" in html


@pytest.mark.usefixtures("signals")
def test_a_refusal_is_one_sentence_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").touch()
    assert main(["--vae", "a", "--data", "d", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("evaluate: ") and said.count("\n") == 1
    assert "already holds a report.json" in said and "another --output" in said


def options(**changed: object) -> Namespace:
    """Options as the command line gives them."""
    return Namespace(**{**vars(parse(NEEDED)), **changed})


def test_the_same_vae_twice_is_refused() -> None:
    with pytest.raises(UserError, match="--vae a was given 2 times"):
        check_request(options(vae=["a", "b", "a"]))


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_either_half_of_a_report_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"already holds a {name}"):
        check_request(options(output=tmp_path))


def test_weights_that_cannot_be_had_name_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty cache, and no way out
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError) as error:
        open_perceptual(options(), Namespace(device="cpu"))
    for way in ("--lpips-weights FILE", "trainer/weights.py --lpips-net vgg", "--lpips-net none"):
        assert way in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--vae", "a", "--data", "d"], "--output"),
        ([*NEEDED, "--lpips-net", "resnet"], "'squeeze'"),
        ([*NEEDED, "--eval-resolution", "0"], "a whole number from 8, got '0'"),
        ([*NEEDED, "--eval-resolution", "1e3"], "a whole number from 8, got '1e3'"),
        ([*NEEDED, "--family", "sd9"], "sdxl"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_says_why(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(wrong)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
