"""Where photos come from: folders, tables, shards; hostile names, links, rows and archives."""

import csv
import gzip
import io
import json
import os
import pickle
import shutil
import socket
import sys
import tarfile
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainer.errors import UserError
from trainer.photos.boxes import read_boxes
from trainer.photos.photo_set import PhotoSet
from trainer.photos.skips import SkippedPhoto
from trainer.photos.sources import open_photos
from trainer.photos.streaming import records_of
from trainer.photos.table_source import open_hub

posix = pytest.mark.skipif(os.name == "nt", reason="needs pipes, links and any byte in names")


def png(seed: int, width: int = 24, height: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def reasons(photos: PhotoSet) -> Counter:
    return Counter(skip.reason for skip in photos.skipped)


def names(photos: PhotoSet) -> set[str]:
    return {photo.name for photo in photos.photos}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


# Folders


def test_folder_is_searched_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep.PNG").write_bytes(png(1, 30, 20))
    (tmp_path / "top.jpg").write_bytes(png(2))  # what counts is the content
    (tmp_path / "copy.png").write_bytes(png(2))
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "small.png").write_bytes(png(3, 15, 99))
    (tmp_path / "phone.HEIC").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._top.jpg").write_bytes(b"left by macOS")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "t.png").write_bytes(png(4))
    photos = open_photos(str(tmp_path), 16)
    assert names(photos) == {"a/b/deep.PNG", "copy.png"}
    assert reasons(photos) == {
        "duplicate": 1,
        "not an image": 1,
        "empty": 1,
        "smaller than --resolution": 1,
        "format not supported": 1,
    }
    deep = next(photo for photo in photos.photos if photo.name == "a/b/deep.PNG")
    assert (deep.width, deep.height, deep.faces) == (30, 20, None)
    assert photos.summary().startswith("2 photos; 5 skipped (1 ")
    assert photos.summary().endswith("1 other files")


def test_order_depends_on_contents_alone(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    for seed in range(12):
        (one / f"{seed:02d}.png").write_bytes(png(seed))
        (other / f"{(seed * 5) % 12:02d}.png").write_bytes(png(seed))
    ids = [[photo.id for photo in open_photos(str(f), 8).photos] for f in (one, other)]
    assert ids[0] == ids[1] == sorted(ids[0])


@posix
def test_links_end_and_pipes_are_not_opened(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "below").mkdir(parents=True)
    outside.mkdir()
    (root / "below" / "real.png").write_bytes(png(1))
    (outside / "linked.png").write_bytes(png(2))
    (root / "below" / "up").symlink_to(root)
    (root / "itself").symlink_to("itself")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "first").symlink_to(outside)
    (root / "second").symlink_to(outside)
    os.link(root / "below" / "real.png", root / "hard.png")
    os.mkfifo(root / "pipe.png")
    photos = open_photos(str(root), 8)
    assert {photo.name.rpartition("/")[2] for photo in photos.photos} <= {
        "real.png",
        "hard.png",
        "linked.png",
    }
    assert len(photos) == 2
    assert reasons(photos) == {"unreadable": 1, "not a file": 1, "duplicate": 1}


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    (tmp_path / "folder").mkdir()
    (tmp_path / "b.png").chmod(0)
    (tmp_path / "folder").chmod(0)
    try:
        assert reasons(open_photos(str(tmp_path), 8)) == {"unreadable": 2}
    finally:
        (tmp_path / "folder").chmod(0o700)


@posix
def test_odd_names_are_read_and_shown_and_written_safely(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    odd = [
        b"\xff.png",
        b"\x1b]0;owned\x07.png",
        b"new\nline.png",
        b"=1+1.png",
        b"<img src=x onerror=1>.png",
        "\u202egnp.png".encode(),
        unicodedata.normalize("NFC", "é.png").encode(),
        unicodedata.normalize("NFD", "é.png").encode(),
        b"x" * 251 + b".png",
        b"CON.png",
        b"a,b\"c'.png",
    ]
    for seed, name in enumerate(odd):
        (root / os.fsdecode(name)).write_bytes(png(seed))
    (root / os.fsdecode(b"=\xffbad\r.png")).write_bytes(b"no image")
    photos = open_photos(str(root), 8)
    assert len(photos) == len(odd)
    assert all(photos.read(i) for i in range(len(photos)))
    photos.write_skipped(tmp_path / "skipped.csv")
    text = (tmp_path / "skipped.csv").read_bytes().decode("utf-8")
    shown = photos.summary() + text.replace("\n", "") + "".join(names(photos))
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs")]
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["name", "reason", "detail"]
    assert rows[1][:2] == [r"'=\xffbad\x0d.png", "not an image"]


def test_no_usable_photo_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes(png(1))
    with pytest.raises(UserError, match=r"1 not an image.*at least 99 pixels.*--resolution"):
        open_photos(str(tmp_path), 99)


@pytest.mark.parametrize(
    "spec",
    ["", " ", "nowhere", "./no/where", "x\0y", "x" * 9999, "*.zip", "~nobody/x", "\n", "a:b"],
)
def test_what_is_not_there(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Expected photos at .* give a folder") as error:
        open_photos(spec, 8)
    assert "\n" not in str(error.value) and "\0" not in str(error.value)


def test_misspelt_folder_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="found nothing: give a folder"):
        open_photos("photos/trian", 8)


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"x")
    with pytest.raises(UserError, match=r"found files of kind '\.zip': give a folder"):
        open_photos(str(tmp_path / "x.zip"), 8)


def test_progress_is_told_and_may_stop_the_scan(tmp_path: Path) -> None:
    for seed in range(5):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    told: list[tuple[int, int]] = []
    open_photos(str(tmp_path), 8, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 5) for n in range(1, 6)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_photos(str(tmp_path), 8, progress=stop)


def test_photos_travel_and_are_read_anew(tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    photos = open_photos(str(tmp_path), 8)
    twin = pickle.loads(pickle.dumps(photos))
    assert [twin.read(i) for i in range(3)] == [photos.read(i) for i in range(3)]
    part = photos.subset([2, 0]).without({photos.photos[0].id})
    assert part.photos == [photos.photos[2]] and part.read(0) == photos.read(2)
    shutil.rmtree(tmp_path)
    with pytest.raises(SkippedPhoto, match="unreadable"):
        photos.image(0)


def test_demo_and_digits() -> None:
    demo = open_photos("demo:train", 128)
    assert "astronaut.png" in names(demo) and demo.image(0).mode == "RGB"
    digits = open_photos("sklearn:digits", 8)
    assert len(digits) > 1700
    assert {(photo.width, photo.height) for photo in digits.photos} == {(8, 8)}
    assert max(np.array(digits.image(i)).max() for i in range(20)) == 255


# Boxes


def test_boxes_are_read_and_cut_to_the_photo() -> None:
    assert read_boxes([[1, 2.5, 3, 4]], 24, 16) == ((1.0, 2.5, 3.0, 4.0),)
    assert read_boxes([[20, 10, 30, 30]], 24, 16) == ((20.0, 10.0, 4.0, 6.0),)
    assert read_boxes({"bbox": [[0, 0, 1, 1]]}, 24, 16) == ((0.0, 0.0, 1.0, 1.0),)
    assert read_boxes([], 24, 16) == ()


@pytest.mark.parametrize(
    "junk",
    [
        [[float("nan"), 0, 1, 1]],
        [[0, 0, float("inf"), 1]],
        [[-1, 0, 5, 5]],
        [[0, 0, 0, 5]],
        [[0, 0, 5, -5]],
        [[0, 0, 5]],
        [[24, 0, 5, 5]],
        [["a", "b", "c", "d"]],
        ["1234"],
        [[0, 0, 1, 1], None],
        "text",
        7,
        {"other": []},
        [[10**400, 0, 1, 1]],
    ],
)
def test_junk_boxes(junk: object) -> None:
    assert read_boxes(junk, 24, 16) is None


# Tables


def write_table(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def cells(count: int) -> list[dict]:
    return [{"bytes": png(seed), "path": f"{seed}.png"} for seed in range(count)]


def test_parquet_of_plain_bytes_of_structs_and_of_datasets(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"picture": cells(3), "label": [0, 1, 2]})
    table = table.cast_column("picture", datasets.Image())
    table.to_parquet(tmp_path / "by_datasets.parquet")
    write_table(tmp_path / "structs.parquet", image=cells(3), label=["a", "b", "c"])
    write_table(tmp_path / "plain.parquet", jpg=[png(seed) for seed in range(3)])
    found = [open_photos(str(path), 8) for path in sorted(tmp_path.glob("*.parquet"))]
    assert len({tuple(photo.id for photo in photos.photos) for photos in found}) == 1
    assert all(len(photos) == 3 and not photos.skipped for photos in found)
    assert {photos.read(0) for photos in found} <= {png(seed) for seed in range(3)}
    twin = pickle.loads(pickle.dumps(found[0]))
    assert twin.read(2) == found[0].read(2)


OPENED: list[str] | None = None


def _note_opened(event: str, arguments: tuple) -> None:
    if OPENED is not None and event == "open":
        OPENED.append(str(arguments[0]))


sys.addaudithook(_note_opened)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(sys.modules[__name__], "OPENED", seen)
    return seen


@pytest.fixture
def listener() -> Iterator[tuple[str, list]]:
    """An address on this machine, and the list of connections that were made to it."""
    made: list = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                made.append(server.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/x.png", made
    server.close()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("by_datasets", [False, True])
def test_rows_that_name_paths_or_addresses_are_not_followed(
    tmp_path: Path, opened: list, listener: tuple[str, list], by_datasets: bool, streaming: bool
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(99))
    address, made = listener
    rows = [*cells(2), {"bytes": None, "path": str(secret)}, {"bytes": None, "path": address}, None]
    path = tmp_path / "data.parquet"
    if by_datasets:
        schema = datasets.Features({"image": datasets.Image()}).arrow_schema
        pq.write_table(pa.table({"image": rows}, schema=schema), path)
    else:
        write_table(path, image=rows)
    opened.clear()
    photos = open_photos(str(path), 8, streaming=streaming)
    if streaming:
        found = Counter(getattr(item, "reason", "photo") for item in records_of(photos.source))
        assert found == {"photo": 2, "no bytes": 3}
    else:
        assert len(photos) == 2 and reasons(photos) == {"no bytes": 3}
        assert "secret.png" in "".join(skip.detail for skip in photos.skipped)
    assert str(path) in opened and str(secret) not in opened
    assert made == []


def test_columns_must_leave_no_doubt(tmp_path: Path) -> None:
    none = write_table(tmp_path / "none.parquet", text=["a"], number=[1])
    with pytest.raises(UserError, match=r"found none among the columns text \(.*number \(int64\)"):
        open_photos(str(none), 8)
    two = write_table(tmp_path / "two.parquet", image=cells(1), mask=[png(9)])
    with pytest.raises(UserError, match=r"found 2 .*image \(.*mask \(binary\).*--image-column"):
        open_photos(str(two), 8)
    assert open_photos(str(two), 8, image_column="mask").read(0) == png(9)
    with pytest.raises(UserError, match="Expected an image column 'nothing'"):
        open_photos(str(two), 8, image_column="nothing")
    with pytest.raises(UserError, match="Expected an image column"):
        open_photos(str(none), 8, image_column="text")


def test_faces_column(tmp_path: Path) -> None:
    boxes = [[[1.0, 2.0, 3.0, 4.0]], [], None, [[float("nan"), 0.0, 1.0, 1.0]], [[-1.0, 0, 1, 1]]]
    path = write_table(tmp_path / "faces.parquet", image=cells(5), faces=boxes)
    photos = open_photos(str(path), 8)
    faces = {photo.name: photo.faces for photo in photos.photos}
    expected = [((1.0, 2.0, 3.0, 4.0),), (), None, (), ()]
    assert faces == {f"row {row}": boxes for row, boxes in enumerate(expected)}
    assert "2 with unreadable face boxes" in photos.summary()
    text = write_table(tmp_path / "text.parquet", image=cells(1), faces=["[0, 0, 5, 5]"])
    assert open_photos(str(text), 8).photos[0].faces == ()
    pictures = write_table(tmp_path / "pictures.parquet", faces=cells(1))
    assert open_photos(str(pictures), 8).photos[0].faces is None


def test_parquet_without_rows_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), path)
    with pytest.raises(UserError, match="no data"):
        open_photos(str(path), 8)
    write_table(tmp_path / "other.parquet", image=[png(1)])
    assert len(open_photos(str(tmp_path), 8)) == 1
    write_table(path, image=cells(3))
    path.write_bytes(path.read_bytes()[:-20])
    for streaming in (False, True):
        with pytest.raises(UserError, match=r"Expected whole Parquet files, but data\.parquet"):
            open_photos(str(path), 8, streaming=streaming)


def test_folder_or_pattern_of_tables(tmp_path: Path) -> None:
    for part in range(2):
        write_table(tmp_path / f"{part}.parquet", image=[cells(4)[2 * part + i] for i in range(2)])
    assert len(open_photos(str(tmp_path), 8)) == 4
    assert len(open_photos(str(tmp_path / "*.parquet"), 8)) == 4
    (tmp_path / "a.png").write_bytes(png(9))
    assert names(open_photos(str(tmp_path), 8)) == {"a.png"}


def test_hub_data_sets(tmp_path: Path) -> None:
    """The hub's road, on a folder laid out as one of its data sets: no network here."""
    write_table(tmp_path / "train-00000-of-00001.parquet", image=cells(3))
    assert len(open_hub(str(tmp_path), "train", None, False).entries([], Counter())) == 3
    with pytest.raises(UserError, match="Expected photos at .*nosplit"):
        open_hub(str(tmp_path), "nosplit", None, False)
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.png").write_bytes(png(1))
    with pytest.raises(UserError, match="of the kind imagefolder: `hf download"):
        open_hub(str(files), "train", None, False)
    with pytest.raises(
        UserError, match="no file or folder has that name, and no data set"
    ) as error:
        open_photos("nobody/nothing", 8)
    assert "\n" not in str(error.value)


# Shards


def write_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/hostname"
    return info


def test_shards_are_indexed_and_read(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar",
        [
            ("a/0001.json", json.dumps({"faces": [[1, 2, 3, 4]]}).encode()),
            ("a/0001.png", png(1)),
            ("a/0001.txt", b"a caption"),
            ("a/0001.seg.png", png(7)),
            ("x" * 150 + ".png", png(2)),  # a long name has a header of its own
            ("a/0003.png", png(3)),
            ("a/0003.json", b"[" * 100_000),
        ],
    )
    write_tar(tmp_path / "1.tar", [("a/0001.png", png(4)), ("b.json", b'{"faces": [["x"]]}')])
    photos = open_photos(str(tmp_path), 8)
    faces = {photo.name: photo.faces for photo in photos.photos}
    assert faces == {
        "0.tar/a/0001.png": ((1.0, 2.0, 3.0, 4.0),),
        f"0.tar/{'x' * 150}.png": None,
        "0.tar/a/0003.png": None,
        "1.tar/a/0001.png": None,
    }
    assert {photos.read(i) for i in range(4)} == {png(seed) for seed in range(1, 5)}
    assert not photos.skipped
    masks = open_photos(str(tmp_path / "*.tar"), 8, image_column="seg.png")
    assert [masks.read(i) for i in range(len(masks))] == [png(7)]


def test_hostile_members(tmp_path: Path) -> None:
    outside = tmp_path / "x.png"
    shard = write_tar(
        tmp_path / "evil.tar",
        [
            ("../x.png", png(1)),
            ("/x.png", png(2)),
            ("a\\..\\..\\x.png", png(3)),
            ("C:\\x.png", png(4)),
            (special("link.png", tarfile.SYMTYPE), b""),
            (special("hard.png", tarfile.LNKTYPE), b""),
            (special("device.png", tarfile.CHRTYPE), b""),
            (special("pipe.png", tarfile.FIFOTYPE), b""),
            (special("folder.png", tarfile.DIRTYPE), b""),
            ("twice.png", png(5)),
            ("twice.jpg", png(6)),
            ("bomb.jpg.gz", gzip.compress(bytes(10**6))),
            ("code.pth", b"x"),
        ],
    )
    photos = open_photos(str(shard), 8)
    assert names(photos) == {"evil.tar/twice.png"} and photos.read(0) == png(5)
    assert reasons(photos) == {"unsafe name": 4, "not a file": 4, "double key": 1}
    assert not outside.exists() and sorted(tmp_path.iterdir()) == [shard]


def test_shard_cut_at_every_block(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [(f"{i}.png", png(i)) for i in range(3)]).read_bytes()
    used = len(whole.rstrip(b"\0"))
    cut = tmp_path / "cut.tar"
    counts = []
    for end in [*range(0, used + 512, 512), *range(100, used, 512)]:
        cut.write_bytes(whole[:end])
        try:
            photos = open_photos(str(cut), 8)
        except UserError as error:
            assert "1 cut shard" in str(error)
            counts.append(0)
            continue
        assert reasons(photos)["cut shard"] == 1
        assert reasons(photos).keys() <= {"cut shard", "cut off"}
        counts.append(len(photos))
    assert set(counts) == {0, 1, 2, 3}


def raw_header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "header",
    [
        raw_header("a.png", b"77777777777"),  # 8 GiB
        raw_header("a.png", b"\x80" + b"\xff" * 11),  # 2**88
        raw_header("a.png", b"\xff" * 10 + b"\xfc\x00"),  # -1024, CVE-2025-8194
        raw_header("a.png", b"77777777777", b"L"),  # a long name of 8 GiB
        raw_header("a.png", b"\xff" * 10 + b"\xfc\x00", b"x"),
        raw_header("a.png", b"junk"),
        b"\x01" * 512,
    ],
)
def test_sizes_that_headers_claim_are_not_believed(tmp_path: Path, header: bytes) -> None:
    good = write_tar(tmp_path / "good.tar", [("0.png", png(0))]).read_bytes()
    shard = tmp_path / "claim.tar"
    shard.write_bytes(good.rstrip(b"\0").ljust(-(-len(good.rstrip(b"\0")) // 512) * 512, b"\0"))
    with shard.open("ab") as file:
        file.write(header + bytes(1024))
    photos = open_photos(str(shard), 8)
    assert names(photos) == {"claim.tar/0.png"}
    assert set(reasons(photos)) <= {"cut shard", "cut off", "file too large"} and photos.skipped
