"""Photos in tables: Parquet files, and data sets of the hub, read through `datasets`.

A row may name a path or an address instead of holding bytes, and `datasets` would open it, whatever
it is. So columns are never decoded by that library: rows are read as plain Arrow values, bytes are
taken, and names are never followed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.names import printable
from trainer.photos.photo_set import Entry
from trainer.photos.skips import Skip, SkippedPhoto
from trainer.photos.streaming import Record

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, Features, IterableDataset

FACES = "faces"
NO_BYTES = "no bytes"
# The kinds of `datasets` that hold bytes in tables. Of the others, "imagefolder" names files in
# its rows, and "webdataset" unpacks and unpickles members by itself.
_TABLES = {"parquet", "arrow"}
_ROWS_AT_ONCE = 16


class TableSource:
    """A table on disk (memory-mapped, as `datasets` keeps it): rows in any order."""

    def __init__(self, name: str, table: "Dataset", image_column: str | None) -> None:
        self.name = name
        self._column = find_image_column(table.features, image_column, name)
        self._faces = faces_column(table.features, self._column)
        self._table = table.select_columns([self._column, *self._faces]).with_format("arrow")

    def entries(self, skipped: list[Skip], notes: Counter) -> list[Entry]:
        """List all rows, with the boxes of those that carry some."""
        rows = range(len(self._table))
        if not self._faces:
            return [Entry(row, f"row {row}") for row in rows]
        boxes = self._table.select_columns(self._faces)[:][FACES].to_pylist()
        return [Entry(row, f"row {row}", boxes[row]) for row in rows]

    def read(self, key: int) -> bytes:
        """Read the bytes in row `key`. Raises SkippedPhoto where the row holds none."""
        return image_bytes(self._table[key : key + 1][self._column][0].as_py())


class StreamedTable:
    """A table read from its beginning, without storing it first."""

    def __init__(self, name: str, table: "IterableDataset", image_column: str | None) -> None:
        self.name = name
        self._column = find_image_column(table.features, image_column, name)
        self._faces = faces_column(table.features, self._column)
        self._table = table.select_columns([self._column, *self._faces]).with_format("arrow")

    def records(self) -> Iterator[Record | Skip]:
        """Read all rows once, in the table's order."""
        row = 0
        with _sentences(f"Expected to read {self.name} to its end, but reading failed"):
            # .iter, as plain iteration shares the rows out among workers, and here each reads all
            for batch in self._table.iter(_ROWS_AT_ONCE):
                for values in batch.to_pylist():
                    yield self._record(f"row {row}", values)
                    row += 1

    def _record(self, name: str, values: dict[str, Any]) -> Record | Skip:
        try:
            return Record(name, image_bytes(values[self._column]), values.get(FACES))
        except SkippedPhoto as skip:
            return Skip(name, skip.reason, skip.detail)


def image_bytes(value: Any) -> bytes:
    """Take the bytes out of an image cell: bytes, or a struct with "bytes".

    Raises SkippedPhoto where it holds none. A path in the cell is shown, and never opened.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return data
    path = value.get("path") if isinstance(value, dict) else None
    raise SkippedPhoto(NO_BYTES, f"only a name, not opened: {path}" if path else "an empty cell")


# Which column


def find_image_column(features: "Features", wanted: str | None, name: str) -> str:
    """Return the column that holds photos: the wanted one, or the only one there is.

    Columns of bytes count where none is marked as images. Raises UserError listing the columns
    and their types if there is none, or more than one to choose from.
    """
    from datasets import Image

    marked = [column for column, kind in features.items() if isinstance(kind, Image)]
    holding_bytes = [column for column, kind in features.items() if _holds_bytes(kind)]
    possible = marked or holding_bytes
    if wanted in marked + holding_bytes:
        return wanted
    if wanted is None and len(possible) == 1:
        return possible[0]
    expected = f"an image column {printable(wanted)!r}" if wanted else "one column of images"
    listed = ", ".join(f"{printable(column)} ({_kind(kind)})" for column, kind in features.items())
    raise UserError(
        f"Expected {expected} in {name}, found {len(possible) or 'none'} among the columns "
        f"{listed}: name it by --image-column"
    )


def faces_column(features: "Features", image_column: str) -> list[str]:
    """Return the column of face boxes, if there is one and it does not hold pictures."""
    from datasets import Image

    kind = features.get(FACES)
    is_picture = image_column == FACES or isinstance(kind, Image) or _holds_bytes(kind)
    return [] if kind is None or is_picture else [FACES]


def _holds_bytes(kind: Any) -> bool:
    inner = kind.get("bytes") if isinstance(kind, dict) else kind
    return getattr(inner, "dtype", None) in ("binary", "large_binary")


def _kind(kind: Any) -> str:
    return printable(str(getattr(kind, "dtype", None) or kind))[:60]


# Opening


def open_parquet(
    files: Sequence[Path], image_column: str | None, streaming: bool
) -> TableSource | StreamedTable:
    """Open Parquet files as one table, in the order of their names. Raises UserError."""
    name = printable(files[0].name if len(files) == 1 else f"{len(files)} Parquet files")
    with _sentences(f"Expected whole Parquet files, but {name} cannot be opened"):
        # A batch size, as the default is the first row group's, which may be 0.
        builder = _builder(
            "parquet", data_files=[str(file) for file in sorted(files)], batch_size=_ROWS_AT_ONCE
        )
        table = _load(builder, "train", streaming)
    return _source(name, table, image_column)


def open_hub(
    spec: str, split: str, image_column: str | None, streaming: bool
) -> TableSource | StreamedTable:
    """Open a data set of the hub, `org/name` or `org/name:configuration`. Raises UserError."""
    path, _, configuration = spec.partition(":")
    with _sentences(
        f"Expected photos at {spec}, but no file or folder has that name, and no data set of the "
        "hub can be opened by it"
    ):
        builder = _builder(path, configuration or None)
        if builder.name not in _TABLES:
            raise UserError(
                f"Expected a data set that holds its photos in tables, but {spec} is of the kind "
                f"{builder.name}: `hf download {path} --repo-type dataset --local-dir photos`, "
                "and give that folder"
            )
        table = _load(builder, split, streaming)
    return _source(spec, table, image_column)


def _builder(path: str, name: str | None = None, **arguments: Any) -> "DatasetBuilder":
    import datasets  # slow to import, and folders do without

    return datasets.load_dataset_builder(path, name, **arguments)


def _load(builder: "DatasetBuilder", split: str, streaming: bool) -> "Dataset | IterableDataset":
    if streaming:
        return builder.as_streaming_dataset(split)
    builder.download_and_prepare()
    return builder.as_dataset(split)


def _source(
    name: str, table: "Dataset | IterableDataset", image_column: str | None
) -> TableSource | StreamedTable:
    from datasets import Dataset

    return (TableSource if isinstance(table, Dataset) else StreamedTable)(name, table, image_column)


@contextmanager
def _sentences(expected: str) -> Iterator[None]:
    """Turn what `datasets` raises, and it raises anything, into a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        said = printable(" ".join(str(cause).split()))[:300]
        raise UserError(
            f"{expected} ({type(cause).__name__}: {said}): check its name and split, the "
            "connection, or whether it is whole"
        ) from error
