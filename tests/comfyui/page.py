"""ComfyUI's page in a headless browser: for the tests, and to make the shipped workflows.

Needs playwright for Python and a Chromium of the system; neither is a dependency of the project.
"""

from __future__ import annotations

import json
import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

READY = """() => window.app?.graph && window.LiteGraph?.registered_node_types?.VAELabEncode
    && window.app.extensionManager"""

# the node's pictures as the page has them, with either way in which frontends keep them
SHOWN = """() => app.graph._nodes.map(node => {
    const images = node.imgs ?? [];
    const output = app.nodeOutputs?.[node.id]?.images ?? [];
    return {id: String(node.id), type: node.type,
            loaded: images.filter(i => i.complete && i.naturalWidth).length, sent: output.length};
})"""


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
def opened(server: Any, locale: str = "en", size: tuple[int, int] = (1600, 900)) -> Iterator[Page]:
    """Open ComfyUI's page in a browser of its own, in a language."""
    from playwright.sync_api import sync_playwright

    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Locale": locale})
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        try:
            tab = chromium.new_page(viewport={"width": size[0], "height": size[1]})
            page = Page(server, tab)
            page.open()
            yield page
        finally:
            chromium.close()


class Page:
    """One tab with ComfyUI in it."""

    def __init__(self, server: Any, tab: Any) -> None:
        self.server, self.tab = server, tab
        self.said: list[str] = []  # warnings and errors of the console
        tab.on("console", lambda m: self.said.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: self.said.append(str(error)))

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

    def shown(self) -> dict[str, dict[str, Any]]:
        """For each node the pictures that the page got, and of them how many are drawn."""
        return {node["id"]: node for node in self.run(SHOWN)}

    def warnings(self) -> list[str]:
        """Texts of dialogs and toasts that stand open."""
        found = self.tab.locator(
            ".p-dialog:visible, .p-toast-message:visible, .comfy-modal:visible"
        )
        return [text.strip() for text in found.all_inner_texts() if text.strip()]

    def help_url(self, pack: str, node: str, file: str) -> str:
        return f"{self.server.url}/extensions/{urllib.parse.quote(pack)}/docs/{node}/{file}"
