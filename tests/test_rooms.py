"""Who may import whom, and what no room may do: read from the source, nothing is run.

Every check is tried on code that breaks it, planted into an empty copy of the rooms.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The registry looks at each process and connection that a pack starts: ours starts none.
OUTSIDE = {"subprocess", "multiprocessing", "ctypes", "pty", "socket", "socketserver", "ssl"}
OUTSIDE |= {"http", "urllib", "ftplib", "smtplib", "xmlrpc", "webbrowser"}
UNSAFE_MODULES = frozenset({"pickle", "marshal", "shelve", "dbm"})
TOO_NEW = {"tomllib"}  # the nodes run on Python 3.10
STDLIB = frozenset(sys.stdlib_module_names) - OUTSIDE - UNSAFE_MODULES - TOO_NEW
COMFYUI = frozenset({"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths"})
MAY_IMPORT = {  # a leading dot: of this project, by a relative import
    "": frozenset({".nodes"}),
    "nodes": STDLIB | COMFYUI | {"torch", ".nodes", ".vae_core"},
    "vae_core": STDLIB | {"torch", "numpy", "PIL", "safetensors", ".vae_core"},
}
TRAINER_NEVER = COMFYUI | {"nodes", ".nodes", ".trainer", ".vae_core"}  # its own, absolutely
UNSAFE_CALLS = ("eval", "exec", "__import__", "importlib.", "torch.load", "torch.hub.")
UNSAFE_CALLS += ("os.system", "os.popen", "os.exec", "os.spawn")
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like"}
DRAWS |= {"randn_like", "randint_like"}
LONGEST_FUNCTION = 50

# Within trainer/, a folder may use itself and those before it; the entries use all.
TRAINER_FOLDERS = ("options", "photos", "vae", "judge", "report", "training", "textbook_vae")

Finding = Callable[[Path, Path], Iterator[str]]


def room_of(file: Path) -> str:
    """The room of a file, given relative to the root; "" is the pack's front door."""
    return file.parts[0] if len(file.parts) > 1 else ""


def tree_of(root: Path, file: Path) -> ast.Module:
    return ast.parse((root / file).read_text("utf-8"), str(file))


def imports_in(root: Path, file: Path) -> Iterator[tuple[int, str]]:
    """Line and first name of all that a file imports; `.room` for a relative import."""
    for node in ast.walk(tree_of(root, file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            above = file.parent.parts[: len(file.parent.parts) - node.level + 1]
            inside = node.module.split(".") if node.module else []
            for alias in node.names:
                yield node.lineno, "." + [*above, *inside, alias.name][0]


def wrong_imports(root: Path, file: Path) -> Iterator[str]:
    room = room_of(file)
    for line, name in imports_in(root, file):
        allowed = name not in TRAINER_NEVER if room == "trainer" else name in MAY_IMPORT[room]
        if not allowed:
            yield f"{file}:{line} imports {name}"


def backward_imports(root: Path, file: Path) -> Iterator[str]:
    """What a folder of the trainer takes from a folder that comes after it."""
    place = file.parts[1] if file.parts[0] == "trainer" else ""
    if place not in TRAINER_FOLDERS:
        return
    later = TRAINER_FOLDERS[TRAINER_FOLDERS.index(place) + 1 :]
    for node in ast.walk(tree_of(root, file)):
        names = node.module.split(".") if isinstance(node, ast.ImportFrom) and node.module else []
        if names[:1] == ["trainer"] and set(names[1:2]) & set(later):
            yield f"{file}:{node.lineno} imports {node.module}"


def calls_in(root: Path, file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a plain or dotted name."""
    for node in ast.walk(tree_of(root, file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def unsafe_code(root: Path, file: Path) -> Iterator[str]:
    """What runs text, reads pickles, or starts and fetches things: not in what ComfyUI loads."""
    if room_of(file) == "trainer":
        return
    for name, call in calls_in(root, file):
        if name in UNSAFE_CALLS or name.startswith(tuple(c for c in UNSAFE_CALLS if "." in c)):
            yield f"{file}:{call.lineno} calls {name}"


def unseeded_draws(root: Path, file: Path) -> Iterator[str]:
    """Random draws without a generator of their own, and seeds set for the whole process."""
    for name, call in calls_in(root, file):
        is_draw = name.startswith("torch.") and name.removeprefix("torch.") in DRAWS
        has_generator = any(keyword.arg == "generator" for keyword in call.keywords)
        if (is_draw and not has_generator) or name.startswith(("random.", "np.random.")):
            yield f"{file}:{call.lineno} draws with {name}"
        if name == "torch.manual_seed" and room_of(file) != "trainer":
            yield f"{file}:{call.lineno} seeds the whole process"


def prints(root: Path, file: Path) -> Iterator[str]:
    if room_of(file) != "trainer":
        for name, call in calls_in(root, file):
            if name == "print":
                yield f"{file}:{call.lineno} prints"


def long_functions(root: Path, file: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(root, file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{file}:{node.lineno} {node.name} has {lines} lines"


def too_new_grammar(root: Path, file: Path) -> Iterator[str]:
    """What Python 3.10 cannot read, where the nodes need it."""
    if room_of(file) != "trainer":
        try:
            ast.parse((root / file).read_text("utf-8"), feature_version=(3, 10))
        except SyntaxError as error:
            yield f"{file}:{error.lineno} {error.msg}"


CHECKS: list[Finding] = [
    wrong_imports,
    backward_imports,
    unsafe_code,
    unseeded_draws,
    prints,
    long_functions,
    too_new_grammar,
]


@pytest.fixture(scope="module")
def product(sources: list[Path]) -> list[Path]:
    """The Python files of the product's rooms."""
    rooms = {*MAY_IMPORT, "trainer"}
    return [file for file in sources if file.suffix == ".py" and room_of(file) in rooms]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_rooms_are_kept(project, product, check):
    assert {room_of(file) for file in product} == {*MAY_IMPORT, "trainer"}
    assert [finding for file in product for finding in check(project, file)] == []


PLANTS = [
    (wrong_imports, "vae_core/x.py", "import comfy.utils"),
    (wrong_imports, "vae_core/x.py", "from diffusers import AutoencoderKL"),
    (wrong_imports, "vae_core/x.py", "from trainer.errors import UserError"),
    (wrong_imports, "vae_core/x.py", "from vae_core.images import to_vae"),
    (wrong_imports, "vae_core/x.py", "from .. import trainer"),
    (wrong_imports, "vae_core/x.py", "def f():\n    import accelerate"),
    (wrong_imports, "vae_core/deep/x.py", "from ..trainer import loop\nfrom ...nodes import a"),
    (wrong_imports, "nodes/x.py", "import nodes"),
    (wrong_imports, "nodes/x.py", "from ..trainer import loop"),
    (wrong_imports, "nodes/x.py", "from vae_core import images"),
    (wrong_imports, "nodes/x.py", "import accelerate"),
    (wrong_imports, "trainer/x.py", "import comfy.sd"),
    (wrong_imports, "trainer/x.py", "from nodes import NODES"),
    (wrong_imports, "trainer/x.py", "from .training import loop"),
    (wrong_imports, "trainer/x.py", "from ..vae_core import images"),
    (wrong_imports, "__init__.py", "import sys"),
    (wrong_imports, "vae_core/x.py", "import pickle"),
    (wrong_imports, "vae_core/x.py", "import tomllib"),
    (wrong_imports, "nodes/x.py", "import subprocess"),
    (wrong_imports, "nodes/x.py", "from urllib.request import urlopen"),
    (backward_imports, "trainer/photos/x.py", "from trainer.vae.base import load_base"),
    (backward_imports, "trainer/judge/x.py", "from trainer.training.loop import train"),
    (unsafe_code, "nodes/x.py", "eval('1')"),
    (unsafe_code, "vae_core/x.py", "torch.load('x.pt')"),
    (unsafe_code, "nodes/x.py", "torch.hub.load_state_dict_from_url('http://x')"),
    (unsafe_code, "nodes/x.py", "os.system('true')"),
    (unseeded_draws, "vae_core/x.py", "torch.randn(2, 3)"),
    (unseeded_draws, "trainer/x.py", "torch.randn_like(latent)"),
    (unseeded_draws, "trainer/x.py", "random.shuffle(photos)"),
    (unseeded_draws, "vae_core/x.py", "torch.manual_seed(0)"),
    (prints, "vae_core/x.py", "print('hello')"),
    (too_new_grammar, "vae_core/x.py", "try:\n    pass\nexcept* OSError:\n    pass"),
    (long_functions, "trainer/x.py", "def f():\n" + "    pass\n" * LONGEST_FUNCTION),
]


@pytest.mark.parametrize(("check", "file", "code"), PLANTS)
def test_a_planted_fault_is_found(tmp_path, check, file, code):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code + "\n", encoding="utf-8")
    assert list(check(tmp_path, Path(file)))


SOUND = [
    ("__init__.py", "from .nodes import comfy_entrypoint"),
    ("nodes/x.py", "import torch\nfrom comfy_api.latest import io\nfrom ..vae_core import images"),
    ("nodes/deep/x.py", "from ...vae_core import images\nfrom ..preview import show"),
    ("vae_core/x.py", "import math\nfrom .images import to_vae\ntorch.randn(2, generator=g)"),
    ("trainer/x.py", "import diffusers\nfrom vae_core.images import to_vae\nprint('done')"),
]


@pytest.mark.parametrize(("file", "code"), SOUND)
def test_sound_code_passes(tmp_path, file, code):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code + "\n", encoding="utf-8")
    assert [finding for check in CHECKS for finding in check(tmp_path, Path(file))] == []


def test_importing_vae_core_brings_no_training_stack(project):
    files = (path.relative_to(project) for path in (project / "vae_core").rglob("[!_]*.py"))
    modules = [".".join(file.with_suffix("").parts) for file in files]
    heavy = "{'diffusers', 'accelerate', 'datasets', 'transformers', 'comfy', 'trainer', 'nodes'}"
    code = f"import sys, {', '.join(modules)}; print({heavy} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=project, check=True
    )
    assert answer.stdout.strip() == "set()"
