"""Start ComfyUI, or get ready to import it, in ComfyUI's own environment.

python launch.py COMFYUI [arguments of its main.py]
"""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

import torch

_kept_alive = []  # a torch.library.Library takes its declarations along when it goes


def declare_missing_operators() -> None:
    """Declare two operators of torchvision where its binary does not fit this torch.

    PyPI's torchvision for Linux is built for CUDA; beside a CPU torch its import stops at these.
    """
    package = importlib.util.find_spec("torchvision").submodule_search_locations[0]
    try:
        for binary in Path(package).glob("_C.*"):
            torch.ops.load_library(binary)
    except OSError:
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept_alive.append(operators)


def enter(comfyui: Path) -> None:
    """Make ComfyUI the first place to import from, and the working folder."""
    declare_missing_operators()
    sys.path[0] = str(comfyui)
    os.chdir(comfyui)


def import_on_cpu(comfyui: Path) -> None:
    """Get ready for `import comfy.…` in this process, on the CPU."""
    enter(comfyui)
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()  # before any other import of comfy, or it asks for CUDA


def main() -> None:
    comfyui, *arguments = sys.argv[1:]
    enter(Path(comfyui).resolve())
    sys.argv = ["main.py", *arguments]
    runpy.run_path("main.py", run_name="__main__")


if __name__ == "__main__":
    main()
