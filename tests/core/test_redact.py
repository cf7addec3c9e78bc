"""What an error quotes of a prompt: found in every spelling, at a cost linear in the prompt."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from every import every
from support import executed_lines

from llmstream._core.redact import names_in, prompt_texts, redact_quotes, redact_texts

TEXT = 'Anna\nSmith\'s "secret" <plan>: Überfall & C:\\new\\table \U0001f600, for 3141592653 Euros'
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "JSON, not ASCII": lambda text: json.dumps(text, ensure_ascii=False),
    "repr": repr,
    "ascii": ascii,
    "on one line": lambda text: " ".join(text.split()),
    "over many lines": lambda text: text.replace(" ", "\n    "),
    "HTML": html.escape,
    "HTML in JSON": lambda text: json.dumps(html.escape(text)),
    "URL": quote,
}


@pytest.mark.slow
@every("spelling", SPELLINGS)
@every("before", ["", "x" * 3, "y" * 5000, "lorem ipsum " * 9000])
def test_every_spelling_is_found(spelling: str, before: str) -> None:
    """Whole, and cut at both ends; in a short prompt, and at any place of a long one."""
    for prompt in (TEXT, f"{before}{TEXT}", f"{before}{TEXT}{before}", f"{before}\n {TEXT} \n"):
        for cut in (slice(None), slice(7, None), slice(None, -6)):
            said = f"refused: {SPELLINGS[spelling](TEXT[cut])}"
            shown = redact_quotes(said, [prompt])
            assert shown.startswith("refused: "), shown
            assert not any(word in shown for word in ("mith", "ecret", "lan", "rfall", "314159"))


@every("length", range(8, 60))
def test_a_quote_at_any_place(length: int) -> None:
    """A whole short prompt, and 15 characters of a longer one, wherever they stand."""
    prompt = "".join(chr(0x61 + at * at % 23) + chr(0x41 + at % 26) for at in range(50))
    assert redact_quotes(f"no: {prompt[:length]}.", [prompt[:length]]) == "no: ***."
    for at in range(len(prompt) - 15):
        assert redact_quotes(f"no: {prompt[at : at + 15]}.", [prompt]) == "no: ***."


def test_parts_of_a_very_long_text_have_no_joint() -> None:
    """A quote is found wherever the parts begin in which a text is read."""
    words = "".join(f"{number:05d}x" for number in range(40_000))
    for at in range(32_768 - 40, 32_768 + 40, 3):
        assert redact_quotes(f"no {words[at : at + 30]}", [words]) == "no ***"


def test_several_texts_at_once() -> None:
    """As if each were alone."""
    texts = ["no: Anna Smith lives", "", "x", "Anna Smith", "a message"]
    expected = [redact_quotes(text, ["Anna Smith"]) for text in texts]
    assert redact_texts(texts, ["Anna Smith"]) == expected
    assert expected == ["no: *** lives", "", "x", "***", "a message"]


def test_a_search_that_takes_too_long_ends() -> None:
    """Then what is not known to be harmless goes: a leak would be worse."""
    prompt = (f"line {number} of Anna Smith's diary" for number in count())  # without an end
    looks = iter([False, False, True])
    texts = ["the model gpt-x does not allow 'Bob Jones', 1234567", "invalid_value"]
    shown = redact_texts(texts, prompt, ["gpt-x"], lambda: next(looks))
    assert shown == ["the model gpt-x does not allow '*** ***', ***", "invalid_value"]


@pytest.mark.slow
def test_prompts_as_deep_as_one_likes() -> None:
    """No recursion."""
    prompt: Any = "in the depth"
    tools: Any = {"name": "deep"}
    for _ in range(100_000):
        prompt, tools = {"content": [prompt]}, [{"function": tools}]
    assert list(prompt_texts(prompt)) == ["in the depth"]
    assert list(names_in(tools)) == ["deep"]
    while prompt and not isinstance(prompt, str):  # freed without recursion, too
        prompt = prompt["content"].pop()
    while isinstance(tools, list):
        tools = tools.pop()["function"]


SAID = "message number 7 of the long conversation, and other words " * 9
PROMPTS: dict[str, Callable[[int], list[str]]] = {
    "one long text": lambda n: ["word and word, " * n],
    "one letter": lambda n: ["a" * n * 20],
    "texts like the error": lambda n: [f"message number {i} of the long" for i in range(n)],
    "short texts": lambda n: [f"number {i}" for i in range(n)],
    "the error itself": lambda n: [SAID] * (n // 10),
}


@pytest.mark.slow
@every("prompt", PROMPTS)
@every("said", [SAID, "a" * 500, "no"])
def test_the_cost_is_linear_in_the_prompt(prompt: str, said: str) -> None:
    """Twice the prompt takes twice the steps."""
    few, many = (
        executed_lines(lambda n=n: redact_texts([said] * 4, PROMPTS[prompt](n)))  # type: ignore[misc]
        for n in (2000, 4000)
    )
    assert many < 2.2 * few + 5000
