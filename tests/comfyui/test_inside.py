"""Each file of inside/, run by pytest in ComfyUI's own environment and process."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui

INSIDE = Path(__file__).with_name("inside")


@pytest.fixture(scope="module")
def pack(lay_pack, new_base, pack_name, tmp_path_factory) -> Path:
    return lay_pack(new_base(tmp_path_factory.mktemp("inside") / "base"), pack_name)


@pytest.mark.parametrize("file", sorted(INSIDE.glob("test_*.py")), ids=lambda file: file.stem)
def test_inside_comfyui(comfyui, pack, file):
    command = [comfyui.python, "-m", "pytest", "-q", "-rs", file.name]
    where = {"VAE_LAB_COMFYUI": str(comfyui.code), "VAE_LAB_PACK": str(pack)}
    answer = subprocess.run(
        command, cwd=INSIDE, env=os.environ | where, capture_output=True, text=True, timeout=900
    )
    print(answer.stdout.splitlines()[-1] if answer.stdout else answer.stderr)
    assert answer.returncode == 0, answer.stdout + answer.stderr
