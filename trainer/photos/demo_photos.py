"""The demo's photos: pictures that the trainer's packages carry, so that nothing is downloaded."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from trainer.errors import UserError


class CarriedPhoto(NamedTuple):
    """A photo inside an installed package."""

    package: str  # as imported
    distribution: str  # as installed
    path: str  # below the package's folder


def _of_skimage(name: str) -> CarriedPhoto:
    return CarriedPhoto("skimage", "scikit-image", f"data/{name}")


def _of_sklearn(name: str) -> CarriedPhoto:
    return CarriedPhoto("sklearn", "scikit-learn", f"datasets/images/{name}")


# A portrait on either side. motorcycle_right.png is left out: it shows what motorcycle_left.png
# shows, a few centimetres aside, and would tell nothing new on this side and too much on the other.
DEMO_PHOTOS: dict[str, tuple[CarriedPhoto, ...]] = {
    "train": (
        _of_skimage("astronaut.png"),
        _of_skimage("coffee.png"),
        _of_skimage("motorcycle_left.png"),
        _of_skimage("rocket.jpg"),
        _of_skimage("hubble_deep_field.jpg"),
        _of_sklearn("flower.jpg"),
    ),
    "val": (
        CarriedPhoto("matplotlib", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
        _of_skimage("chelsea.png"),
        _of_sklearn("china.jpg"),
    ),
}


def demo_files(part: str) -> list[Path]:
    """Return where the demo's photos lie: `part` is "train" or "val".

    Raises UserError for another part, and where a package or its photo is not installed.
    """
    if part not in DEMO_PHOTOS:
        raise UserError(f"The demo's photos are demo:train and demo:val; there is no demo:{part}.")
    return [_locate(photo) for photo in DEMO_PHOTOS[part]]


def _locate(photo: CarriedPhoto) -> Path:
    spec = find_spec(photo.package)  # looks for the package without importing it
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        if (path := Path(folder, photo.path)).is_file():
            return path
    raise UserError(
        f"The demo needs {Path(photo.path).name} out of the package {photo.distribution}, which is "
        "not installed with it: install the trainer's packages with pip install '.[train]', "
        "or name your own photos with --data and --val-data."
    )
