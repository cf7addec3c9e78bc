"""A notebook in a real JupyterLab, as somebody sees it in a real Chromium: the picture of the
README, and that nothing which a model writes runs there.

    LLMSTREAM_PICTURES=1 pytest -m apps tests/readers/test_jupyterlab.py     # takes it anew
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PACKAGE, PATIENCE, eventually
from test_safe_markdown import ATTACKS

from llmstream.testing import Answer, LLMServer, Reply, Silence

pytestmark = [
    pytest.mark.apps,
    pytest.mark.filterwarnings("ignore"),  # theirs
    pytest.mark.timeout(240),
]

PICTURE = PACKAGE / "llmstream" / "readers" / "pictures" / "notebook.png"
LOADED = 90_000  # ms: a page of some megabytes, and a kernel, on a busy machine

THINKING = "Light from the sun has all colours. Short waves are scattered more: by $1/\\lambda^4$."
SKY = """\
Because air scatters **blue** light more than red (*Rayleigh scattering*):

| colour | wavelength | scattered |
|---|---|---|
| blue | 450 nm | 4.4 times as much |
| red | 650 nm | |

The share goes with $\\lambda^{-4}$. In C++:

```c++
#include <cmath>
double share(double nm) { return std::pow(650 / nm, 4); }
```

In a page, `<b>` would make it bold: what a model writes as HTML is <b>shown</b> as it is.
"""
SUNSET = "At **sunset** the light has a longer way through the air, and most of the blue is gone"


# Nothing is asked of the internet, and all outputs are in the page, wherever it is scrolled to.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


class Lab:
    """A JupyterLab that runs, with notebooks in its folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def write(self, name: str, *cells: str) -> str:
        """A notebook; returns the address of its page."""
        notebook = {
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"cell-{number}",
                    "execution_count": None,
                    "metadata": {},
                    "outputs": [],
                    "source": source,
                }
                for number, source in enumerate(cells)
            ],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (self.folder / f"{name}.ipynb").write_text(json.dumps(notebook), "utf-8")
        return f"{self.url}doc/tree/{name}.ipynb?token=abc"


@pytest.fixture(scope="module")
def service() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server


@pytest.fixture(scope="module")
def lab(service: LLMServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    names = ("RUNTIME_DIR", "DATA_DIR", "CONFIG_DIR")
    labs = ("SETTINGS_DIR", "WORKSPACES_DIR")
    for name, value in SETTINGS.items():
        file = folder / "settings_dir" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    environment = {
        **{n: v for n, v in os.environ.items() if not n.startswith(("OPENAI_", "ANTHROPIC_"))},
        **{f"JUPYTER_{name}": str(folder / name.lower()) for name in names},
        **{f"JUPYTERLAB_{name}": str(folder / name.lower()) for name in labs},
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": str(PACKAGE),
        "OPENAI_API_KEY": "test-key",
        "OPENAI_BASE_URL": service.base_url,
    }
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.port=0"]
    options += ["--IdentityProvider.token=abc", f"--ServerApp.root_dir={folder}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log
        )
    try:
        info = eventually(lambda: written(folder / "runtime_dir"), "the server listens", 90)
        port = json.loads(info)["port"]
        yield Lab(folder, f"http://127.0.0.1:{port}/")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def written(folder: Path) -> str:
    """What the server writes about itself, once all of it is there."""
    text = "".join(file.read_text() for file in folder.glob("jpserver-*.json"))
    return text if text.rstrip().endswith("}") else ""


class Page:
    """A notebook in a tab."""

    def __init__(self, tab: Any, url: str) -> None:
        self.tab = tab
        tab.set_default_timeout(LOADED)
        tab.goto(url)
        self.until_idle()

    def until_idle(self) -> None:
        """Waits until the kernel is done. What it receives before that, after an error or an
        interrupt, it refuses to run."""
        self.tab.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'"
        )

    def command(self, name: str) -> None:
        """What a button or a menu does; does not wait for its end."""
        self.tab.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)

    def outputs(self, cell: int) -> Any:
        return self.tab.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")

    def text(self, cell: int) -> str:
        return "\n".join(self.outputs(cell).all_inner_texts())

    def picture(self, last: int) -> bytes:
        """The notebook down to the cell `last`, as a PNG."""
        box = self.tab.locator(".jp-CodeCell").nth(last).bounding_box()
        clip = {
            "x": 0,
            "y": 0,
            "width": box["x"] + box["width"],
            "height": box["y"] + box["height"],
        }
        shot: bytes = self.tab.screenshot(clip=clip)
        return shot

    def until(self, cell: int, shown: str) -> None:
        """Waits until the outputs of a cell have this text."""
        self.outputs(cell).filter(has_text=shown).first.wait_for()


@contextlib.contextmanager
def opened(chromium: Any, url: str) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 820, "height": 980}, device_scale_factor=1.5)
    try:
        yield Page(context.new_page(), url)
    finally:
        context.close()


def test_the_picture(chromium: Any, lab: Lab, service: LLMServer) -> None:
    """An answer that is whole, with its thinking folded; one that arrives, with its progress. Then
    the stop button: what had arrived stays, and the next cell has its own output."""
    whole = Answer(SKY, thinking=THINKING, model="gpt-5.4-mini")
    blocks = Answer(SUNSET + " by then.", model="gpt-5.4-mini").blocks()
    until_then = next(at for at, block in enumerate(blocks) if b" then" in block) - 1
    service.script(whole, Reply([*blocks[:until_then], Silence()]), Answer("It is **red**."))
    url = lab.write(
        "sky",
        'from llmstream import Client\n\nclient = Client("responses")',
        'client.stream("Why is the sky blue?", thinking=True).display()',
        'client.stream("And at sunset?").display()',
        'client.stream("What is left?").display(progress=False)',
    )
    with opened(chromium, url) as page:
        page.command("notebook:run-all-cells")
        page.until(2, "1 s")
        # The formulas and the colours of the code are there.
        page.outputs(1).locator("mjx-container:not(details *)").first.wait_for()
        assert page.outputs(1).locator("details").get_attribute("open") is None
        assert page.outputs(1).locator("table tr").count() == 3
        assert page.outputs(1).locator("pre").inner_text().startswith("#include <cmath>")
        assert page.outputs(1).locator("p code").inner_text() == "<b>"
        assert "HTML is <b>shown</b> as it is." in page.text(1)
        assert re.search(r"gpt-5\.4-mini · 34 tokens · \d+\.\d s$", page.text(1).strip())
        assert re.search(rf"{len(SUNSET):,} characters · \d+ s$", page.text(2).strip())
        shot = page.picture(last=2)
        shown = re.sub(r"\d+(\.\d)? s\b", "0 s", page.text(1) + "\n" + page.text(2))
        check_picture(shot, shown)

        begun = time.monotonic()
        page.command("notebook:interrupt-kernel")
        closed = service.wait_closed(len(service.requests) - 1, PATIENCE)
        assert closed - begun < PATIENCE
        page.until(2, "Interrupted.")
        assert "the blue is gone" in page.text(2)
        page.until(2, "KeyboardInterrupt")
        page.until_idle()
        assert page.text(3) == ""  # an interrupt ends the run of the cells after it
        page.tab.locator(".jp-CodeCell").nth(3).click()
        page.command("notebook:run-cell")
        page.until(3, "It is red.")
        assert page.text(3).strip() == "It is red."


def check_picture(shot: bytes, shown: str) -> None:
    """The picture of the README shows what the notebook shows: its text is kept inside of it. (The
    pixels depend on the fonts and the versions.)"""
    if os.environ.get("LLMSTREAM_PICTURES"):
        PICTURE.write_bytes(with_text(shot, shown))
    assert text_in(PICTURE.read_bytes()) == shown


def with_text(png: bytes, text: str) -> bytes:
    """The picture with a chunk of text (PNG 1.2, 4.2.3: iTXt) before its end."""
    data = b"Description\0\0\0\0\0" + text.encode()
    chunk = struct.pack(">I", len(data)) + b"iTXt" + data
    chunk += struct.pack(">I", zlib.crc32(b"iTXt" + data))
    return png[:-12] + chunk + png[-12:]


def text_in(png: bytes) -> str:
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"iTXt":
            return png[at + 8 : at + 8 + length].split(b"\0\0\0\0\0", 1)[1].decode()
        at += length + 12
    return ""


# ---- nothing runs --------------------------------------------------------------------------------


class Beacon(http.server.BaseHTTPRequestHandler):
    """Whatever a page fetches from here has left the notebook."""

    fetched: list[str]

    def do_GET(self) -> None:
        self.fetched.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def beacon() -> Iterator[tuple[str, list[str]]]:
    fetched: list[str] = []
    handler = type("Handler", (Beacon,), {"fetched": fetched})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", fetched
        server.shutdown()
        thread.join()


def test_nothing_runs(
    chromium: Any, lab: Lab, service: LLMServer, beacon: tuple[str, list[str]]
) -> None:
    """Each attack as an answer and as thinking: no script runs, nothing is fetched, no link leads
    to one. The same as plain Markdown of IPython does both, so this notebook can tell."""
    address, fetched = beacon
    attacks = [
        text.replace("alert(1)", "parent.pwned=1").replace("https://a.example", address)
        for text in ATTACKS
    ]
    attacks += [f"<img src='{address}/a.png' onerror='window.pwned=1'>", f"![x]({address}/b.png)"]
    # JupyterLab shows fifty outputs of a cell.
    groups = [attacks[at : at + 10] for at in range(0, len(attacks), 10)]
    url = lab.write(
        "attacks",
        "from llmstream import Client, Result\nclient = Client('responses')",
        *(
            f"for text in {group!r}:\n    display(Result(text=text))\n"
            "    client.stream('x').display(progress=False)\nprint('all of it')"
            for group in groups
        ),
    )
    service.default = Answer("no attack is left")
    service.script(*(Answer(text, thinking=text) for text in attacks))
    with opened(chromium, url) as page:
        page.command("notebook:run-all-cells")
        for cell in range(1, len(groups) + 1):
            page.until(cell, "all of it")
        assert page.tab.locator(".jp-RenderedMarkdown").count() >= 3 * len(attacks) - 5
        assert "no attack is left" not in page.tab.content()
        found = page.tab.evaluate(
            """() => ({
              pwned: window.pwned ?? null,
              active: [...document.querySelectorAll(
                  ".jp-RenderedMarkdown :is(script, img, iframe, object, embed, style, form)")]
                .map(node => node.outerHTML),
              handlers: [...document.querySelectorAll(".jp-RenderedMarkdown *")]
                .filter(node => [...node.attributes].some(one => one.name.startsWith("on")))
                .map(node => node.outerHTML),
              links: [...document.querySelectorAll(".jp-RenderedMarkdown a")]
                .map(node => node.protocol)
                .filter(one => !["http:", "https:", "mailto:"].includes(one)),
            })"""
        )
        assert found == {"pwned": None, "active": [], "handlers": [], "links": []}
        assert fetched == []
    url = lab.write(
        "control",
        "from IPython.display import Markdown\n"
        f"Markdown({attacks[-1]!r} + '\\n\\n' + {attacks[-2]!r})",
    )
    with opened(chromium, url) as page:
        page.command("notebook:run-all-cells")
        page.tab.wait_for_function("window.pwned === 1")
        assert fetched
