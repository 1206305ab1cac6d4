"""The pack in a real ComfyUI: it loads under any folder name, and a broken one is seen."""

import re

import pytest

pytestmark = pytest.mark.comfyui

FAILED = "IMPORT FAILED"


def import_line(log: str, name: str) -> str:
    """The line on a pack in ComfyUI's list of import times."""
    (line,) = re.findall(rf"^.*seconds.*: .*{re.escape(name)}$", log, re.MULTILINE)
    return line


def test_loads_under_an_absurd_folder_name(server, pack_name):
    log = server.log.read_text("utf-8", "replace")
    assert FAILED not in import_line(log, pack_name)
    at_start = log.partition("got prompt")[0]
    assert at_start.count(pack_name) == 1  # nothing else is said of it


def test_loads_under_a_name_with_blanks(load_only, lay_pack, new_base, tmp_path):
    base = new_base(tmp_path / "base")
    lay_pack(base, "vae lab (copy of copy)")
    assert FAILED not in import_line(load_only(base), "vae lab (copy of copy)")


def test_its_nodes_are_there_and_no_core_node_is_lost(server):
    known = server.get("/object_info")
    assert {"VAELoader", "VAEDecode", "VAEEncode", "SaveLatent"} <= known.keys()
    ours = {name for name in known if name.startswith("VAELab")}
    assert len(ours) == 10


def test_a_pack_that_cannot_be_imported_is_seen(load_only, lay_pack, new_base, tmp_path):
    """The watchman is awake: ComfyUI ends with 0 all the same, only its log tells."""
    base = new_base(tmp_path / "base")
    pack = lay_pack(base, "broken pack")
    with (pack / "nodes" / "__init__.py").open("a", encoding="utf-8") as source:
        source.write("import no_such_module_anywhere\n")
    assert FAILED in import_line(load_only(base), "broken pack")
