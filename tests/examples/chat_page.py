"""The chat page, as somebody uses it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from support import PATIENCE
from upstream import Upstream

__all__ = ["ChatPage", "served"]

# Keeps, for each piece of text that an answer grows by, the moment at which it was in the page.
_WATCH = """
window.seen = [];
addEventListener("DOMContentLoaded", () => {
  let known = 0;
  new MutationObserver(() => {
    const text = [...document.querySelectorAll(".answer .text")].at(-1)?.textContent ?? "";
    if (text.length < known) known = 0;
    if (text.length > known) window.seen.push([Date.now(), text.slice(known)]);
    known = text.length;
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
});
"""


class ChatPage:
    """A tab with the page."""

    def __init__(self, tab: Any, url: str) -> None:
        self.tab = tab
        self.problems: list[str] = []
        tab.set_default_timeout(4 * PATIENCE * 1000)  # longer than the page's own clock
        tab.on("pageerror", lambda error: self.problems.append(str(error)))
        tab.on("console", lambda message: self._said(message.text))
        tab.add_init_script(_WATCH)
        tab.goto(url)

    def _said(self, text: str) -> None:
        if "Content Security Policy" in text or "Content-Security-Policy" in text:
            self.problems.append(text)

    def ask(self, prompt: str) -> None:
        self.tab.fill("#prompt", prompt)
        self.tab.press("#prompt", "Enter")

    @property
    def answer(self) -> Any:
        return self.tab.locator(".answer").last

    @property
    def text(self) -> str:
        """The answer's text, each character of it."""
        found: str = self.answer.locator(".text").evaluate("node => node.textContent")
        return found

    @property
    def turns(self) -> Any:
        """What the page has stored."""
        return self.tab.evaluate("JSON.parse(sessionStorage.getItem('turns'))")

    def until_text(self, begin: str) -> None:
        """Waits until the answer's text begins like this."""
        pattern = re.compile("^" + re.escape(begin))
        self.answer.locator(".text").filter(has_text=pattern).wait_for(state="attached")

    def until_ended(self) -> None:
        """Waits until the answer has ended: whole, stopped or failed."""
        self.tab.locator(".answer:last-of-type:not([aria-busy])").wait_for()

    @property
    def usage(self) -> str:
        found: str = self.answer.locator(".usage").inner_text()
        return found

    @property
    def error(self) -> str | None:
        """The error in place, where one is shown."""
        error = self.answer.locator(".error")
        return error.locator("p").inner_text() if error.is_visible() else None

    def stop(self) -> None:
        self.tab.click("#stop")

    def begin_anew(self) -> None:
        """ "New chat", which loads the page again. It hears nothing before its script has run."""
        self.tab.click("#new")
        self.tab.locator("#empty").wait_for()  # of the new document: an asked one has none
        self.tab.wait_for_load_state("load")

    def regenerate(self) -> None:
        self.answer.locator(".regenerate").click()

    def try_again(self) -> None:
        self.answer.locator(".error button").click()

    @property
    def seen(self) -> list[tuple[float, str]]:
        """The pieces by which the text grew, each with its moment (milliseconds since 1970)."""
        return [(at, piece) for at, piece in self.tab.evaluate("window.seen")]


def served(upstream: Upstream, **more: str) -> dict[str, str]:
    """The environment of a server of the page, which asks this service."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    return {**upstream.environment(), "PYTHONPATH": path, **more}
