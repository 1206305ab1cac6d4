"""ComfyUI's page in a headless browser: for the tests, and to make the shipped workflows.

Needs playwright for Python and a Chromium of the system; neither is a dependency of the project.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZE = (1600, 900)
SEARCH = "input[role=combobox]:visible"

READY = """() => window.app?.graph && window.LiteGraph?.registered_node_types?.VAELabEncode
    && window.app.extensionManager"""

# the first picture of each node that has drawn one: its width and height
DRAWN = """() => Object.fromEntries(app.graph._nodes
    .filter(node => node.imgs?.[0]?.complete && node.imgs[0].naturalWidth)
    .map(node => [node.id, [node.imgs[0].naturalWidth, node.imgs[0].naturalHeight]]))"""

# what a new node is called, and its widgets, in the page's language
LABELS = """kind => {
    const node = LiteGraph.createNode(kind), inputs = {};
    for (const slot of node.inputs ?? []) inputs[slot.name] = slot.label ?? slot.localized_name;
    for (const widget of node.widgets ?? []) inputs[widget.name] = widget.label ?? widget.name;
    delete inputs.control_after_generate;
    return {title: node.title, inputs};
}"""

# one new node alone on the page, selected, and in view with the buttons above it
SELECT = """kind => {
    app.graph.clear();
    const node = LiteGraph.createNode(kind);
    app.graph.add(node);
    node.pos = [300, 300];
    app.canvas.ds.reset();
    app.canvas.selectNode(node);
    app.canvas.setDirty(true, true);
}"""

HELP_PICTURES = """() => Object.fromEntries([...document.querySelectorAll("img[src*='/docs/']")]
    .map(image => [image.getAttribute("src"), image.naturalWidth]))"""


def missing() -> str | None:
    """Say what is missing for a browser test, or None."""
    if not any(map(shutil.which, BROWSERS)):
        return f"no browser: none of {', '.join(BROWSERS)} is installed"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "no playwright: pip install playwright"
    return None


@contextmanager
def started() -> Iterator[Any]:
    """Start a browser without a window."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, server: Any, locale: str = "en", size: tuple[int, int] = SIZE) -> Page:
    """Open ComfyUI's page in a language."""
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Locale": locale})
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page = Page(server, tab)
    page.open()
    return page


class Page:
    """One tab with ComfyUI in it."""

    def __init__(self, server: Any, tab: Any) -> None:
        self.server, self.tab = server, tab
        self.errors: list[str] = []  # what scripts did not catch
        tab.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self) -> None:
        self.tab.goto(self.server.url, wait_until="domcontentloaded")
        self.tab.wait_for_function(READY, timeout=120_000)
        self.tab.wait_for_timeout(1500)  # the page loads a graph of its own after it is ready

    def run(self, script: str, argument: Any = None) -> Any:
        """Run JavaScript in the page; promises are waited for."""
        return self.tab.evaluate(script, argument)

    def load_prompt(self, prompt: dict[str, Any], name: str) -> None:
        self.run("([prompt, name]) => app.loadApiJson(prompt, name)", [prompt, name])

    def load_workflow(self, workflow: dict[str, Any]) -> None:
        self.run("workflow => app.loadGraphData(workflow)", workflow)

    def workflow(self) -> dict[str, Any]:
        """The graph in UI format."""
        return json.loads(
            self.run("async () => JSON.stringify((await app.graphToPrompt()).workflow)")
        )

    def prompt(self) -> dict[str, Any]:
        """The graph in API format, as it would be queued."""
        return self.run("async () => (await app.graphToPrompt()).output")

    def queue(self, seconds: float = 180) -> dict[str, Any]:
        """Press run, wait for the end, and return the server's history entry."""
        known = set(self.server.get("/history"))
        self.run("() => app.queuePrompt(0, 1)")
        for _ in range(int(seconds * 4)):
            history = self.server.get("/history")
            new = [key for key in history if key not in known]
            if new:
                return history[new[0]]
            self.tab.wait_for_timeout(250)
        raise TimeoutError(f"the page's prompt did not end in {seconds} s")

    def types(self) -> dict[str, str]:
        """The type of each node on the page, by id."""
        return self.run("() => Object.fromEntries(app.graph._nodes.map(n => [n.id, n.type]))")

    def drawn(self) -> dict[str, list[int]]:
        """Width and height of the first picture of each node that shows one."""
        return self.run(DRAWN)

    def label(self, kind: str) -> dict[str, Any]:
        """The title of a new node, and the labels of its inputs by name."""
        return self.run(LABELS, kind)

    def open_search(self) -> None:
        """Open the node search by the page's own command, which a double-click gives too."""
        self.run("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        self.tab.locator(SEARCH).wait_for(timeout=30_000)

    def search(self, words: str) -> list[str]:
        """What the open node search offers for some words."""
        self.tab.locator(SEARCH).fill(words)
        self.tab.wait_for_timeout(1000)
        found = self.tab.locator("[role=option]").all_inner_texts()
        return [text.replace("\xa0", " ") for text in found]

    def help_pictures(self, kind: str) -> dict[str, int]:
        """Open a node's help as its info button does; the addresses of pictures, and widths."""
        self.run(SELECT, kind)
        self.tab.locator("[data-testid=info-button]").first.click(timeout=20_000)
        self.tab.locator("img[src*='/docs/']").first.wait_for(timeout=20_000)
        self.tab.wait_for_function("() => [...document.images].every(image => image.complete)")
        return self.run(HELP_PICTURES)

    def warnings(self) -> list[str]:
        """Texts of dialogs and toasts that stand open."""
        found = self.tab.locator(
            ".p-dialog:visible, .p-toast-message:visible, .comfy-modal:visible"
        )
        return [text.strip() for text in found.all_inner_texts() if text.strip()]
