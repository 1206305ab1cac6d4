"""faces.py as people start it, and boxes against those that were drawn by eye on real photos."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from trainer.faces import main, parse
from trainer.photos.face_index import read_index

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ["--data", "d", "--output", "o.parquet", "--face-detector-weights", "f.onnx"]


@pytest.fixture
def signals() -> Iterator[None]:
    """Give Ctrl-C back to pytest."""
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)


@pytest.fixture
def weights(assets: Path) -> Path:
    return assets / "models" / "face_detection_yunet_2023mar.onnx"


def command(data: Path, output: Path, weights: Path, *more: object) -> list[str]:
    given = ["--data", data, "--output", output, "--face-detector-weights", weights, *more]
    return [str(part) for part in given]


@pytest.mark.slow
def test_the_entry_starts_as_a_file_from_another_folder() -> None:
    command = [sys.executable, str(ROOT / "trainer" / "faces.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0 and done.stdout.startswith("usage: faces.py"), done.stderr


@pytest.mark.usefixtures("signals")
def test_faces_are_found_counted_and_drawn_once(
    weights: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, sheet = tmp_path / "faces.parquet", tmp_path / "faces.png"
    assert main(command(photo_folder, index, weights, "--sheet", sheet)) == 0
    said = capsys.readouterr().out
    assert "12 photos" in said and "with faces               3" in said
    assert len(read_index(index).photos) == 12
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    written = index.stat().st_mtime_ns
    assert main(command(photo_folder, index, weights)) == 0
    assert capsys.readouterr().out.splitlines()[:4] == said.splitlines()[:4]
    assert index.stat().st_mtime_ns == written


@pytest.mark.usefixtures("signals")
def test_boxes_that_came_with_the_photos_are_counted(
    weights: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = [path.read_bytes() for path in sorted(photo_folder.iterdir())]
    boxes = [[[1.0, 2.0, 20.0, 30.0]]] * len(pixels)
    parquet.write_table(pyarrow.table({"image": pixels, "faces": boxes}), tmp_path / "set.parquet")
    output, sheet = tmp_path / "faces.parquet", tmp_path / "faces.jpg"
    assert main(command(tmp_path / "set.parquet", output, weights, "--sheet", sheet)) == 0
    assert "24 to 64 px           12" in capsys.readouterr().out
    assert read_index(output).photos == {} and sheet.exists()


@pytest.mark.usefixtures("signals")
def test_a_refusal_is_one_sentence_and_exit_code_1(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photo_folder, tmp_path / "faces.parquet", tmp_path / "none.onnx")) == 1
    said = capsys.readouterr().err
    assert said.startswith("faces: ") and said.count("\n") == 1 and "YuNet" in said
    assert not (tmp_path / "faces.parquet").exists()


@pytest.mark.parametrize(
    ("wrong", "said"), [(NEEDED[:4], "--face-detector"), ([*NEEDED, "--sheet", "a.gif"], ".jpg")]
)
def test_a_wrong_command_line_ends_with_2_and_says_why(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(wrong)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
