"""The pictures of the pages that READMEs show. `LLMSTREAM_SCREENSHOTS=1` makes them anew; without
it the pages are drawn all the same, and the pictures have to be there."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_page import ChatPage, served
from hosts import Host, gunicorn
from support import PACKAGE
from upstream import Says, Upstream

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

Open = Callable[..., ChatPage]

PICTURES = PACKAGE / "llmstream" / "examples" / "pictures"
MOST_BYTES = 100_000

SKY = """Sunlight holds **all colours**. On its way through the air, short waves are scattered most:

- *violet* and *blue* are thrown in all directions
- *red* goes almost straight on

The strength goes with the fourth power of the frequency:

```python
def scattering(wavelength_nm: float) -> float:
    return (550 / wavelength_nm) ** 4  # Rayleigh, 1871
```
So the light that reaches you from everywhere else is blue."""
SUNSET = "At sunset the light crosses *forty times* as much air. Nearly all of its blue is gone by"

DESKTOP = {"viewport": {"width": 900, "height": 640}}
PHONE = {
    "viewport": {"width": 390, "height": 720},
    "is_mobile": True,
    "has_touch": True,
    "reduced_motion": "reduce",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Host]:
    words = re.findall(r"\S+\s*|\s+", SUNSET)
    upstream.answers["Why is the sky blue?"] = Says([SKY], thinking=["Rayleigh scattering."])
    upstream.answers["And at sunset?"] = Says(words, holds=True)
    upstream.answers["And on Mars?"] = Says(["Its sky is "], error="overloaded")
    folder = tmp_path_factory.mktemp("site")
    workers = ("--worker-class", "gthread", "--threads", "20")
    with gunicorn(folder, "served_chat:flask_app()", *workers, **served(upstream)) as host:
        yield host


def draw(page: ChatPage, name: str) -> None:
    """Takes the picture `name`, which is kept if that is asked for, and has to be there anyway."""
    drawn = page.tab.screenshot()
    file = PICTURES / f"{name}.png"
    if os.environ.get("LLMSTREAM_SCREENSHOTS") == "1":
        PICTURES.mkdir(exist_ok=True)
        file.write_bytes(drawn)
    assert file.is_file(), "make it with LLMSTREAM_SCREENSHOTS=1 pytest -m browser"
    kept = file.read_bytes()
    assert size(drawn) == size(kept)
    assert len(kept) < MOST_BYTES


def size(png: bytes) -> Any:
    """Width and height (PNG specification, 11.2.1)."""
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_desktop(open_page: Open, site: Host, scheme: str) -> None:
    page = open_page(site.url, color_scheme=scheme, **DESKTOP)
    page.ask("Why is the sky blue?")
    page.until_ended()
    assert page.text == SKY
    draw(page, f"desktop-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(open_page: Open, site: Host, scheme: str) -> None:
    """While an answer is written."""
    page = open_page(site.url, color_scheme=scheme, **PHONE)
    say(page, "Why is the sky blue?")
    page.until_ended()
    say(page, "And at sunset?")
    page.until_text(SUNSET)
    draw(page, f"phone-{scheme}")
    page.stop()


def test_error(open_page: Open, site: Host) -> None:
    page = open_page(site.url, color_scheme="light", **PHONE)
    say(page, "Why is the sky blue?")
    page.until_ended()
    say(page, "And on Mars?")
    page.until_ended()
    assert page.error == "The service failed. Please try again."
    draw(page, "phone-error")


def say(page: ChatPage, text: str) -> None:
    """On a phone Enter is a new line."""
    page.tab.fill("#prompt", text)
    page.tab.tap("#send")


@pytest.mark.parametrize("picture", sorted(Path(PICTURES).glob("*.png")), ids=lambda p: p.name)
def test_every_picture_is_shown(picture: Path) -> None:
    readmes = (PACKAGE / "llmstream").rglob("README.md")
    assert any(f"pictures/{picture.name})" in readme.read_text("utf-8") for readme in readmes)
