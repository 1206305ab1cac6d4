"""Photos read in passing, without a list of them: for sets too large to store or look through.

What it costs: the order is the source's own, shuffled within a buffer only. Every worker of every
process reads the whole stream and decodes its own share of it, and holds one buffer of undecoded
photos. A resumed run reads again up to where it stood. Nothing is checked before training.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import nextafter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import IterableDataset, get_worker_info

from trainer.errors import UserError
from trainer.names import printable
from trainer.photos.batches import (
    Batch,
    Draws,
    NoBatch,
    Sample,
    Slots,
    collate,
    make_streamed_sample,
)
from trainer.photos.crops import sample_generator
from trainer.photos.decoding import WHITE, measure_photo
from trainer.photos.memory_source import MemorySource
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.photo_set import (
    Photo,
    PhotoSet,
    Source,
    hash_place,
    photo_id,
    read_bytes,
    write_skipped,
)
from trainer.photos.scan import check_size, known_faces, scan
from trainer.photos.skips import Skip, SkippedPhoto

BUFFER = 128  # undecoded photos to shuffle among
HEAD = 1000  # photos at the head that are searched for validation
MOST_HELD = 100  # of them are kept, in memory
LOOKAHEAD = 10  # photos that may stand in for one that cannot be decoded


class Record(NamedTuple):
    """One candidate in passing: its name, its bytes, its raw face boxes."""

    name: str
    data: bytes
    faces: Any = None


class StreamSource(Protocol):
    """Where a stream comes from; it pickles, and begins anew with every call."""

    name: str

    def records(self) -> Iterator[Record | Skip]:
        """Read all candidates once, in the source's order."""


class Passing(NamedTuple):
    """A record that is big enough and not held out, and what was skipped just before it."""

    photo_id: str
    record: Record
    skipped: list[Skip]


@dataclass
class PhotoStream:
    """A stream of photos; `held_below` is where in the hash's [0, 1) the training side begins."""

    source: Source | StreamSource
    smallest: int
    background: tuple[int, int, int] = WHITE
    held_below: float = 0.0
    held_ids: frozenset[str] = frozenset()
    photos: list[Photo] = field(default_factory=list)  # none is known beforehand
    skipped: list[Skip] = field(default_factory=list)

    def summary(self) -> str:
        """Say in one line what is known, which is little."""
        return f"a stream of photos from {self.source.name}, checked as they come"

    def write_skipped(self, path: Path) -> None:
        """Write the photos skipped so far to a CSV file: name, reason, detail."""
        write_skipped(path, self.skipped)

    def passing(self) -> Iterator[Passing]:
        """Read the stream once: what is large enough by its header and not held out."""
        skipped: list[Skip] = []
        for record in records_of(self.source):
            if isinstance(record, Skip):
                skipped.append(record)
            elif self._is_held(identity := photo_id(record.data)):
                continue
            elif skip := _too_small(record, self.smallest):
                skipped.append(skip)
            else:
                yield Passing(identity, record, skipped)
                skipped = []

    def _is_held(self, identity: str) -> bool:
        return identity in self.held_ids or hash_place(identity) < self.held_below

    def without(self, ids: Collection[str]) -> "PhotoStream":
        """Return the stream without the photos of these ids."""
        return replace(self, held_ids=self.held_ids | frozenset(ids))

    def hold_out(self, share: float) -> tuple["PhotoStream", PhotoSet]:
        """Part into (train, val): val is about `share` of the head, kept in memory.

        Whatever in the whole stream has a hash under the share is left out of training, so a
        photo never stands on both sides. If the head holds none, its lowest hash is held.
        """
        head = [item for item, _ in zip(self.passing(), range(HEAD), strict=False)]
        lowest = min((hash_place(item.photo_id) for item in head), default=0.0)
        held_below = max(share, nextafter(lowest, 2.0))
        held = [item.record for item in head if hash_place(item.photo_id) < held_below]
        source = MemorySource(self.source.name, held[:MOST_HELD])
        return replace(self, held_below=held_below), scan(source, self.smallest, self.background)


def _too_small(record: Record, smallest: int) -> Skip | None:
    """Look at a record's header alone; None if it is large enough."""
    try:
        check_size(*measure_photo(record.data), smallest)
    except SkippedPhoto as skip:
        return Skip(printable(record.name), skip.reason, skip.detail)
    return None


def records_of(source: Source | StreamSource) -> Iterator[Record | Skip]:
    """Read any source as a stream; one that can be read in any order, in that of its entries."""
    if hasattr(source, "records"):
        yield from source.records()
        return
    skipped: list[Skip] = []
    entries = source.entries(skipped, Counter())
    yield from skipped
    for entry in entries:
        try:
            yield Record(entry.name, read_bytes(source, entry.key), entry.faces)
        except SkippedPhoto as skip:
            yield Skip(printable(entry.name), skip.reason, skip.detail)


# The endless line of samples


def shuffled(items: Iterable[Passing], generator: torch.Generator) -> Iterator[Passing]:
    """Shuffle a stream within a buffer: each new item takes the place of one drawn at random."""
    buffer: list[Passing] = []
    for item in items:
        if len(buffer) < BUFFER:
            buffer.append(item)
            continue
        place = int(torch.randint(BUFFER, (), generator=generator))
        drawn, buffer[place] = buffer[place], item
        yield drawn
    for place in torch.randperm(len(buffer), generator=generator).tolist():
        yield buffer[place]


def line(stream: PhotoStream, seed: int, start: int) -> Iterator[tuple[int, Passing]]:
    """Yield (epoch, photo) without end from position `start` on; nothing if none can be used.

    Once an epoch's length is known, whole epochs are passed over without reading them.
    """
    epoch, to_pass = 0, start
    while True:
        length = 0
        for item in shuffled(stream.passing(), sample_generator(seed, epoch, "", "order")):
            length += 1
            if to_pass:
                to_pass -= 1
            else:
                yield epoch, item
        if not length:
            return
        epochs, to_pass = divmod(to_pass, length)
        epoch += 1 + epochs


class StreamedBatches(IterableDataset):
    """Micro-batches of one process out of a stream; a worker decodes every so many-th of them."""

    def __init__(self, stream: PhotoStream, draws: Draws, slots: Slots) -> None:
        self._stream = stream
        self._draws = draws
        self._slots = slots

    def __iter__(self) -> Iterator[Batch | NoBatch]:
        try:
            yield from self._batches()
            why = "it holds none that can be used"
        except UserError as error:
            why = str(error)
        yield NoBatch([], f"Expected photos in {self._stream.source.name}, but {why}")

    def _batches(self) -> Iterator[Batch | NoBatch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        batch_size, rank, world, start = self._slots
        window = _Window(line(self._stream, self._draws.seed, start))
        number = 0
        while cut := window.take(batch_size):
            k, owner = divmod(number, world)
            number += 1
            if owner == rank and k % workers == worker:
                yield self._batch(cut, window)

    def _batch(self, cut: list[tuple[int, Passing]], window: "_Window") -> Batch | NoBatch:
        skipped = [skip for _, item in cut for skip in item.skipped]
        samples = []
        for place in range(len(cut)):
            sample = self._sample([*cut[place:], *window.ahead], skipped)
            if sample is None:
                return NoBatch(skipped)
            samples.append(sample)
        return collate(samples, skipped)

    def _sample(self, line: list[tuple[int, Passing]], skipped: list[Skip]) -> Sample | None:
        """Make a sample from the first of a piece of the line that can be decoded."""
        for epoch, item in line:
            try:
                opened = OpenPhoto(item.record.data, self._stream.background)
                faces, _ = known_faces(item.record.faces, *opened.size)
                photo = Photo(item.photo_id, item.record.name, *opened.size, faces)
                return make_streamed_sample(photo, opened, epoch, self._draws)
            except SkippedPhoto as skip:
                skipped.append(Skip(printable(item.record.name), skip.reason, skip.detail))
        return None


class _Window:
    """A view along the line: what is taken, and a few photos beyond."""

    def __init__(self, items: Iterator[tuple[int, Passing]]) -> None:
        self._items = items
        self.ahead: deque[tuple[int, Passing]] = deque()

    def take(self, amount: int) -> list[tuple[int, Passing]]:
        """Take the next items of the line; none if it has ended."""
        while len(self.ahead) < amount + LOOKAHEAD:
            item = next(self._items, None)
            if item is None:
                return []
            self.ahead.append(item)
        return [self.ahead.popleft() for _ in range(amount)]
