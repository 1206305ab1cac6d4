"""The versions that a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "diffusers", "accelerate", "datasets", "peft", "safetensors", "pillow")


def versions() -> dict[str, str]:
    """Name the versions of Python and of the packages that shape a result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
