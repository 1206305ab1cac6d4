"""A real ComfyUI for the tests: where it is, a pack laid into it, and its server.

ComfyUI runs in an environment of its own: numbers go from one to the other through files.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).resolve().parent

collect_ignore = ["inside"]  # those run in ComfyUI's environment: see test_inside.py


class ComfyUI(NamedTuple):
    """A ComfyUI's folder, and the interpreter of its environment."""

    code: Path
    python: Path

    def run(self, script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a script that starts with the folder as its first argument; its output is kept."""
        command = [self.python, script, self.code, *arguments]
        return captured([str(part) for part in command])


class Server:
    """A running ComfyUI server, spoken to over HTTP."""

    def __init__(self, url: str, base: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.url, self.base, self.log, self.process = url, base, log, process

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read().decode("utf-8")

    def get(self, path: str) -> Any:
        return json.loads(self.text(path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def queue(self, prompt: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
        """Run an API-format prompt to its end and return its history entry."""
        key = self.post("/prompt", {"prompt": prompt})["prompt_id"]
        return wait_for(lambda: self.get(f"/history/{key}").get(key), seconds, f"prompt {key}")


def captured(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, at most five minutes, and keep what it says."""
    kept = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    return subprocess.run(command, timeout=300, **kept)


def wait_for(ask: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask until there is an answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.1)
    raise TimeoutError(f"{what}: no answer in {seconds} s")


def load_installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_comfyui", HERE / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_comfyui() -> ComfyUI | None:
    """The ComfyUI that the environment names, else the one that install.py has built."""
    if "COMFYUI_PATH" in os.environ:
        python = os.environ.get("COMFYUI_PYTHON", sys.executable)
        return ComfyUI(Path(os.environ["COMFYUI_PATH"]).resolve(), Path(python))
    install = load_installer()
    cache = install.cache_folder()
    if not install.is_built(cache):
        return None
    return ComfyUI(install.code_of(cache), install.python_of(cache))


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    """A real ComfyUI; without one the test is skipped, or fails where one is required."""
    found = find_comfyui()
    if found is None:
        reason = (
            "no ComfyUI: build one with `python tests/comfyui/install.py`, "
            "or name one in COMFYUI_PATH and COMFYUI_PYTHON"
        )
        end = pytest.fail if os.environ.get("VAE_LAB_REQUIRE_COMFYUI") == "1" else pytest.skip
        end(reason)
    return found


@pytest.fixture(scope="session")
def lay_pack(project: Path, shipped: list[Path]) -> Callable[[Path, str], Path]:
    """A function that copies the files of the pack into a ComfyUI base folder, under a name."""

    def lay(base: Path, name: str) -> Path:
        pack = base / "custom_nodes" / name
        for file in shipped:
            (pack / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project / file, pack / file)
        return pack

    return lay


@pytest.fixture(scope="session")
def new_base() -> Callable[[Path], Path]:
    """A function that makes a ComfyUI base folder, as yet without packs."""

    def make(folder: Path) -> Path:
        for name in ("custom_nodes", "models/vae", "input", "output", "temp", "user"):
            (folder / name).mkdir(parents=True)
        return folder

    return make


@pytest.fixture(scope="session")
def pack_name() -> str:
    """A folder name with what breaks packs that trust theirs: dots, brackets.

    No blank: ComfyUI itself does not serve the help pages of a folder with one.
    """
    return "vae-lab.v2.(copy)"


def server_command(comfyui: ComfyUI, base: Path, *arguments: object) -> list[str]:
    options = ["--cpu", "--disable-api-nodes", "--base-directory", base, *arguments]
    return [str(part) for part in (comfyui.python, HERE / "launch.py", comfyui.code, *options)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def load_only(comfyui: ComfyUI) -> Callable[[Path], str]:
    """A function that lets ComfyUI load everything in a base folder and end; returns its log."""

    def load(base: Path) -> str:
        command = server_command(comfyui, base, "--quick-test-for-ci")
        answer = captured(command)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout + answer.stderr

    return load


@pytest.fixture(scope="session")
def server(
    comfyui: ComfyUI,
    lay_pack: Callable[[Path, str], Path],
    new_base: Callable[[Path], Path],
    pack_name: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """One server for the session, with the pack in it under an absurd folder name."""
    base = new_base(tmp_path_factory.mktemp("server") / "base")
    lay_pack(base, pack_name)
    port, log = free_port(), base.parent / "server.log"
    options = ("--listen", "127.0.0.1", "--port", port, "--disable-auto-launch")
    with log.open("wb") as output:
        command = server_command(comfyui, base, *options)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    running = Server(f"http://127.0.0.1:{port}", base, log, process)

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended at its start:\n{log.read_text('utf-8', 'replace')}")
        try:
            return bool(running.get("/system_stats"))
        except (urllib.error.URLError, ConnectionError):
            return False

    try:
        wait_for(answers, 180, "ComfyUI's server")
        yield running
    finally:
        process.terminate()
        process.wait(30)
