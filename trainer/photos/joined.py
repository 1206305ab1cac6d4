"""Two sets of photos as one: what is trained on, and what is mixed in."""

from collections import Counter
from dataclasses import replace
from typing import Any

from trainer.photos.photo_set import Entry, PhotoSet, Source
from trainer.photos.skips import Skip


class JoinedSource:
    """Two sources; a key is (0 or 1, the source's own key)."""

    def __init__(self, *sources: Source) -> None:
        self.name = " and ".join(source.name for source in sources)
        self._sources = sources

    def entries(self, skipped: list[Skip], notes: Counter) -> list[Entry]:
        """List the candidates of both."""
        return [
            entry._replace(key=(which, entry.key))
            for which, source in enumerate(self._sources)
            for entry in source.entries(skipped, notes)
        ]

    def read(self, key: tuple[int, Any]) -> bytes:
        """Read a candidate of either."""
        which, own = key
        return self._sources[which].read(own)


def joined_sets(own: PhotoSet, mixed_in: PhotoSet) -> PhotoSet:
    """Join two sets, the second at the end; what was skipped of it stays with it."""
    keys = [(which, key) for which, photos in enumerate((own, mixed_in)) for key in photos.keys]
    return replace(
        own,
        source=JoinedSource(own.source, mixed_in.source),
        photos=own.photos + mixed_in.photos,
        keys=keys,
        mixed_in=len(mixed_in),
    )
