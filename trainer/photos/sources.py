"""Find the photos that --data, --val-data and --general-val-data mean."""

import glob
import re
from pathlib import Path

from trainer.errors import UserError
from trainer.names import printable
from trainer.photos.decoding import WHITE
from trainer.photos.folder_source import PHOTO_SUFFIXES, FileSource, FolderSource, walk
from trainer.photos.memory_source import digits
from trainer.photos.photo_set import Photo, PhotoSet, Source
from trainer.photos.scan import Progress, scan
from trainer.photos.skips import Skip
from trainer.photos.streaming import PhotoStream, StreamSource
from trainer.photos.table_source import open_hub, open_parquet
from trainer.photos.webdataset_source import ShardSource

__all__ = ["Photo", "PhotoSet", "Skip", "open_photos"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?", re.ASCII)
_FORMS = "a folder, .parquet or .tar files (* stands for many), or a data set of the hub, org/name"


def open_photos(
    spec: str,
    smallest: int,
    *,
    split: str | None = None,
    image_column: str | None = None,
    streaming: bool = False,
    progress: Progress | None = None,
    background: tuple[int, int, int] = WHITE,
) -> PhotoSet | PhotoStream:
    """Open what `spec` names and look at every photo once.

    `smallest`: photos with a side under it, in pixels, are skipped. `split` and `image_column`
    choose within data sets. `progress` is told how many photos are done. With `streaming` nothing
    is looked at beforehand. Raises UserError where `spec` names nothing, or no usable photo.
    """
    source = find_source(spec, split, image_column, streaming)
    if streaming:
        return PhotoStream(source, smallest, background)
    photos = scan(source, smallest, background, progress)
    if not photos:
        raise UserError(
            f"Expected photos in {source.name}, but none can be used ({photos.summary()}): give "
            f"photos with at least {smallest} pixels a side, or lower --resolution"
        )
    return photos


def find_source(
    spec: str, split: str | None, image_column: str | None, streaming: bool
) -> Source | StreamSource:
    """Decide what `spec` means. A file or folder that is there wins over a data set's id."""
    kind, _, part = spec.partition(":")
    if kind == "demo":
        from trainer.photos.demo_photos import demo_files

        return FileSource(spec, demo_files(part))
    if spec == "sklearn:digits":
        return digits()
    files = _files_at(spec)
    if not files and _is_hub_id(spec):
        return open_hub(spec, split or "train", image_column, streaming)
    if len(files) == 1 and files[0].is_dir():
        return _folder(files[0], image_column, streaming)
    return _tables(spec, files, image_column, streaming)


def _is_hub_id(spec: str) -> bool:
    """Tell org/name from a path below a folder that is here, in which a name is misspelt."""
    return bool(_HUB_ID.fullmatch(spec)) and not Path(spec.partition("/")[0]).exists()


def _files_at(spec: str) -> list[Path]:
    """Return the file or folder at `spec`, or the files that it matches as a pattern."""
    if not spec.strip():
        return []
    try:
        path = Path(spec).expanduser()
        if path.exists():
            return [path]
        return sorted(Path(found) for found in glob.glob(str(path), recursive=True))
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, no home folder
        return []


def _folder(root: Path, image_column: str | None, streaming: bool) -> Source | StreamSource:
    """Take a folder as photos; as tables or shards if it holds those and no photo."""
    suffixes = {path.suffix.lower(): path for path in walk(root, [])}
    for suffix in () if suffixes.keys() & PHOTO_SUFFIXES else (".parquet", ".tar"):
        if suffix in suffixes:
            files = [path for path in walk(root, []) if path.suffix.lower() == suffix]
            return _tables(root.name, files, image_column, streaming)
    return FolderSource(root)


def _tables(
    spec: str, files: list[Path], image_column: str | None, streaming: bool
) -> Source | StreamSource:
    """Open Parquet files or shards, all of one kind."""
    suffixes = {path.suffix.lower() for path in files if path.is_file()}
    if suffixes == {".parquet"}:
        return open_parquet(files, image_column, streaming)
    if suffixes == {".tar"}:
        name = files[0].name if len(files) == 1 else f"{len(files)} shards"
        return ShardSource(printable(name), files, image_column)
    found = f"files of kind {', '.join(map(repr, sorted(suffixes)))}" if suffixes else "nothing"
    raise UserError(f"Expected photos at {printable(spec)}, but found {found}: give {_FORMS}")
