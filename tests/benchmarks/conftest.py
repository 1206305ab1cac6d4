"""The tiny base and the photos that the trainer's tests use, too."""

from tests.trainer.conftest import photo_folder, tiny_base

__all__ = ["photo_folder", "tiny_base"]
