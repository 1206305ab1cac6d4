"""Safetensors: hostile files refused in plain words, our own the same bytes every time."""

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vae_core.checkpoint import (
    CheckpointError,
    check_finite,
    read_header,
    read_tensors,
    write_safetensors,
)

ROOT = Path(__file__).resolve().parents[2]


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(3, 5, generator=generator)
    return {
        "b.float": draw,
        "a.half": draw[0].half(),
        "c.brain": draw.bfloat16()[:, :3],
        "z.double": draw.double(),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "transposed": draw.T,
    }


def raw_file(path: Path, header: object, body: bytes = b"") -> Path:
    """Write a file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def entry(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict:
    size = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": size, "data_offsets": [start, end]}


# Writing


def test_the_stock_library_loads_what_we_write(tmp_path: Path) -> None:
    tensors, path = some_tensors(), tmp_path / "a.safetensors"
    write_safetensors(path, tensors, {"format": "pt", "caf\u00e9": "\u4e2d\udcff"})
    loaded = load_file(path)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "caf\u00e9": "\u4e2d?"}


def test_we_load_what_the_stock_library_writes(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in some_tensors().items()}
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    loaded = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert set(loaded) == set(tensors)
    assert read_header(tmp_path / "a.safetensors").metadata == {"format": "pt"}


def test_every_tensor_lies_aligned_and_the_header_is_sorted(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, some_tensors(), {"z": "1", "a": "2"})
    for info in read_header(path).tensors.values():
        itemsize = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(info.dtype, 1)
        assert info.start % itemsize == 0
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(header) == sorted(header)
    assert list(header["__metadata__"]) == ["a", "z"]


WRITE = """
import sys, torch
from pathlib import Path
from vae_core.checkpoint import write_safetensors
names = [f"n{i}" for i in range(30)][:: int(sys.argv[2])]
tensors = {n: torch.full((3,), float(n[1:])) for n in names}
write_safetensors(Path(sys.argv[1]), tensors, {n: n for n in set(names)})
"""


def test_equal_input_gives_equal_bytes_in_any_order_and_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    subprocess.run([sys.executable, "-c", WRITE, str(there), "-1"], cwd=ROOT, check=True)
    monkeypatch.setattr(sys, "argv", ["-c", str(here), "1"])
    exec(compile(WRITE, "write", "exec"), {})
    assert here.read_bytes() == there.read_bytes()


def test_metadata_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must be text"):
        write_safetensors(tmp_path / "a.safetensors", {}, {"steps": 3})
    assert not os.listdir(tmp_path)


def test_a_file_may_be_written_over_the_one_its_tensors_came_from(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, some_tensors(), {})
    before = path.read_bytes()
    write_safetensors(path, read_tensors(path), {})
    assert path.read_bytes() == before


# Reading


@pytest.mark.skipif(os.name == "nt", reason="files with holes need no disk on POSIX only")
def test_only_what_is_named_is_read(tmp_path: Path) -> None:
    path, big = tmp_path / "full.safetensors", 6 * 2**30
    header = {"unet": entry(0, big, [big], "U8"), "vae": entry(big, big + 8)}
    raw_file(path, header)
    with path.open("r+b") as file:
        offset = file.seek(0, os.SEEK_END)
        file.seek(offset + big)
        file.write(struct.pack("<2f", 1.5, -2.0))
    tracemalloc.start()
    loaded = read_tensors(path, ["vae"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded["vae"].tolist() == [1.5, -2.0]
    assert peak < 2**20


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    raw_file(tmp_path / "a.safetensors", {"x": entry(0, 4)}, bytes(4))
    with pytest.raises(CheckpointError, match="'a.safetensors' holds no tensor 'y'"):
        read_tensors(tmp_path / "a.safetensors", ["y"])


def test_a_type_that_torch_lacks_is_named(tmp_path: Path) -> None:
    raw_file(tmp_path / "a.safetensors", {"x": entry(0, 4, [8], "F4")}, bytes(4))
    with pytest.raises(CheckpointError, match="'x' is of type 'F4'"):
        read_tensors(tmp_path / "a.safetensors")


HTML = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 334643276\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"abc", "is not a .safetensors file"),
        (HTML, "is a web page"),
        (POINTER, "is a Git LFS pointer.*git lfs pull"),
        (b"GGUF" + bytes(100), "is a GGUF file"),
        (b'{"error": "not found"}', "is JSON text"),
        (pickle.dumps({"a": 1}, protocol=2), "is a PyTorch pickle.*convert it first: python -c"),
        (pickle.dumps([1] * 50, protocol=4), "is a PyTorch pickle"),
        (struct.pack("<Q", 2**40) + b"{}", "is not a .safetensors file"),
        (struct.pack("<Q", 5000) + b'{"x"', "is cut off: its header alone needs 5,008 bytes"),
    ],
)
def test_what_is_no_safetensors_file_is_called_by_its_name(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "vae.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"^'vae.safetensors' {words}"):
        read_header(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_checkpoint_is_a_pickle_whatever_its_name(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "vae.safetensors"
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="is a PyTorch pickle"):
        read_header(path)


def test_the_way_out_of_a_pickle_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {"x": torch.eye(3).T, "step": 5}}, tmp_path / "in.ckpt")
    with pytest.raises(CheckpointError) as caught:
        read_header(tmp_path / "in.ckpt")
    code = str(caught.value).split('python -c "')[1].rstrip('"')
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "advice", "exec"), {})
    assert torch.equal(read_tensors(tmp_path / "out.safetensors")["x"], torch.eye(3))


def test_an_ordinary_zip_is_not_called_a_pickle(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.safetensors", "w") as file:
        file.writestr("vae.safetensors", b"x")
    with pytest.raises(CheckpointError, match="is a zip archive"):
        read_header(tmp_path / "a.safetensors")


def test_no_pickle_is_ever_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "marker"),)

    for name in ("a.safetensors", "a.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CheckpointError, match="pickle"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("header", "body", "words"),
    [
        (b'{"x": 1, "x": 2}', b"", "'x' stands in it twice"),
        ({"x": {**entry(0, 4), "extra": 1}}, bytes(4), "dtype, shape and data_offsets"),
        ({"x": entry(0, 4), "y": entry(2, 6)}, bytes(6), "overlap or leave holes"),
        ({"x": entry(0, 4), "y": entry(8, 12)}, bytes(12), "overlap or leave holes"),
        ({"x": entry(4, 8)}, bytes(8), "overlap or leave holes"),
        ({"x": entry(0, 4)}, bytes(5), "has 1 bytes behind its last tensor"),
        ({"x": entry(0, 8)}, bytes(4), "is cut off: .* bytes are there"),
        ({"x": entry(0, 4, [2])}, bytes(4), "does not fit the bytes"),
        ({"x": entry(0, 4, [2**62, 2**62])}, bytes(4), "does not fit the bytes"),
        ({"x": entry(0, 4, [-1])}, bytes(4), "not a whole number"),
        ({"x": entry(0, 4, [True])}, bytes(4), "not a whole number"),
        ({"x": entry(0, 4, [1.0])}, bytes(4), "not a whole number"),
        ({"x": entry(4, 0, [1])}, bytes(4), "does not fit"),
        ({"x": {**entry(0, 4), "dtype": ["F32"]}}, bytes(4), "makes no sense"),
        ({"__metadata__": {"steps": 3}}, b"", "something else than text"),
        (b'{"x": NaN}', b"", "NaN stands in it"),
        (b'{"x": [}', b"", "not the JSON expected"),
        (b'{"x": 5}', b"", "damaged header"),
        (b'{"x": ' + b"[" * 100_000, b"", "not the JSON expected"),
        (b'{"x": ' + b"9" * 5000 + b"}", b"", "not the JSON expected"),
        (b'{"\xff": 1}', b"", "not the JSON expected"),
    ],
)
def test_a_damaged_header_is_refused(
    tmp_path: Path, header: object, body: bytes, words: str
) -> None:
    path = raw_file(tmp_path / "vae.safetensors", header, body)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_tensors(path)
    assert str(caught.value).startswith("'vae.safetensors' ")


def test_a_name_with_escape_codes_is_shown_as_text(tmp_path: Path) -> None:
    header = b'{"\\u001b]0;x": 1, "\\u001b]0;x": 2}'
    path = raw_file(tmp_path / "\x1b[31m.safetensors", header)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert str(caught.value).isprintable()


def test_more_tensors_than_any_checkpoint_has_are_refused_early(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a.safetensors", b'{"data_offsets":' + b'"data_offsets",' * 100_001)
    with pytest.raises(CheckpointError, match="over 100,000 tensors"):
        read_header(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "vae.safetensors")
    caught: list[Exception] = []

    def read() -> None:
        try:
            read_header(tmp_path / "vae.safetensors")
        except CheckpointError as error:
            caught.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert caught
    assert "not a regular file" in str(caught[0])


def test_a_thousand_mutations_and_a_thousand_cuts(tmp_path: Path) -> None:
    """Whatever happens to its bytes, a file loads as the library would, or is refused by us."""
    path = tmp_path / "a.safetensors"
    tensors = {name: t for name, t in some_tensors().items() if t.dtype == torch.float32}
    write_safetensors(path, tensors, {"format": "pt"})
    good, generator, loaded_same = path.read_bytes(), random.Random(0), 0
    for turn in range(2000):
        data = bytearray(good)
        if turn % 2:
            data = data[: generator.randrange(len(good))]
        else:
            for _ in range(generator.choice((1, 1, 2, 5))):
                data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            ours = read_tensors(path)
        except CheckpointError:
            continue
        theirs = load_file(path)
        loaded_same += 1
        assert set(ours) == set(theirs)
        for name, tensor in theirs.items():
            assert ours[name].shape == tensor.shape
            assert torch.equal(ours[name].nan_to_num(), tensor.nan_to_num())
    assert 50 < loaded_same < 1000  # changed values load, changed headers do not


def test_what_is_not_finite_is_named() -> None:
    state = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan"), float("inf")])}
    with pytest.raises(CheckpointError, match="vae.safetensors is damaged: 'b' holds 2 values"):
        check_finite(state, "vae.safetensors")
    check_finite({"a": torch.ones(2), "n": torch.ones(2, dtype=torch.int64)}, "x")
