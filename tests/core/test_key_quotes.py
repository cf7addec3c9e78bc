"""What an error quotes of a key: any part of eight characters, in every spelling."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote

from every import every
from support import cpu_seconds

from llmstream._core.credentials import (
    credentials_in,
    credentials_of_address,
    is_credential,
    without_credentials,
)
from llmstream._core.key_quotes import redact_keys

KEY = 'sk-proj-AbC+dEf/GhI=jKl&mNo-pQr\\StU"vWx_0123456789'
ZERO_WIDTH = "\u200b"


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "every character escaped": escaped,
    "URL": lambda text: quote(text, safe=""),
    "URL twice": lambda text: quote(quote(text, safe=""), safe=""),
    "HTML": html.escape,
    "HTML in numbers": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "over two lines": lambda text: f"{text[:20]}\n{text[20:]}",
    "over many lines": lambda text: "\r\n    ".join(
        text[at : at + 5] for at in range(0, len(text), 5)
    ),
    "quoted over lines": lambda text: "\n> ".join(
        text[at : at + 6] for at in range(0, len(text), 6)
    ),
    "an escaped line end": lambda text: f"{text[:20]}\\n{text[20:]}",
    "a line end of a URL": lambda text: f"{text[:20]}%0A{text[20:]}",
    "joined": lambda text: f"'{text[:20]}' + '{text[20:]}'",
    "with spaces": " ".join,
    "with nothing to see": ZERO_WIDTH.join,
    "in capitals": str.upper,
    "in small letters": str.lower,
    "hexadecimal": lambda text: text.encode().hex(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of a URL": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 of a pair": lambda text: base64.b64encode(f"user:{text}:x".encode()).decode(),
    "base64 of another pair": lambda text: base64.b64encode(f"usr:{text}".encode()).decode(),
    "masked in the middle": lambda text: f"{text[:12]}***{text[-20:]}",
}


@every("spelling", SPELLINGS)
@every("cut", [slice(None), slice(3, None), slice(-20, None), slice(8, 30)])
def test_every_spelling_of_every_part(spelling: str, cut: slice) -> None:
    """The words around it stay."""
    said = SPELLINGS[spelling](KEY[cut])
    (shown,) = redact_keys([f"unknown key: {said} , sorry"], [KEY])
    assert shown.startswith("unknown key: "), shown
    assert shown.endswith(" , sorry")
    at = len("unknown key: ")
    assert len(shown[at:-8].replace("***", "")) < max(12, len(said) // 4), shown


@every("length", range(8, len(KEY)))
def test_any_part_of_eight_characters(length: int) -> None:
    """Wherever it begins."""
    for at in range(len(KEY) - length + 1):
        part = KEY[at : at + length]
        (shown,) = redact_keys([f"bad <{part}>"], [KEY])
        assert part not in shown
        assert "***" in shown


@every("key", ["no-key-required", "test", "none", "not-needed", "", "the-model-is-not-available"])
def test_a_placeholder_takes_no_word_from_a_reason(key: str) -> None:
    """A local server's key consists of ordinary words."""
    said = "HTTP 422: body.messages.0.name: Field required; the model does not exist, not needed"
    assert redact_keys([said], [key], [key]) == [said]


def test_a_short_password_is_found_as_a_word() -> None:
    """And only as one."""
    said = "user bob with s3cr3t, s3cr3ts or model"
    assert redact_keys([said], [], ["s3cr3t", "model"]) == ["user bob with ***, s3cr3ts or model"]
    assert redact_keys([said], ["s3cr3t"]) == [said]


def test_several_texts_and_keys() -> None:
    """Each is blotted out in each."""
    one, two = "first-key-4711-abc", "second-key-0815-xyz"
    texts = [f"no {one}", f"{two} and {one}", "", "nothing"]
    assert redact_keys(texts, [one, two]) == ["no ***", "*** and ***", "", "nothing"]


def test_long_keys_cost_little() -> None:
    """Cookies and tokens of 16 KB, and a message of 10 KB."""
    keys = [
        "".join(chr(33 + (at * at * step + at) % 90) for at in range(16_000)) for step in (3, 7)
    ]
    texts = ["some words " * 900, "code", "type", "param"]
    assert cpu_seconds(lambda: redact_keys(texts, keys)) < 1.5


@every(
    "name",
    [
        *("Authorization", "Proxy-Authorization", "X-API-Key", "api-key", "x-goog-api-key"),
        *(
            "Cookie",
            "x-auth-token",
            "cf-access-client-secret",
            "apiKey",
            "access_token",
            "password",
        ),
        *("ocp-apim-subscription-key", "x-amz-security-token", "auth", "clientSecret", "sig"),
    ],
)
def test_names_of_credentials(name: str) -> None:
    """Of headers and fields, in every way of writing."""
    assert is_credential(name)
    assert is_credential(name.lower())


@every(
    "name",
    [
        *("content-type", "x-team", "anthropic-version", "openai-beta", "max_tokens", "metadata"),
        *("idempotency-key", "prompt_cache_key", "authors", "tokenizer", "signal", "keyword"),
    ],
)
def test_other_names(name: str) -> None:
    """Unless the value has a scheme of authorization."""
    assert not is_credential(name, "a value")
    assert is_credential(name, "Bearer abc") == (
        name not in ("idempotency-key", "prompt_cache_key")
    )


def test_credentials_in_a_request() -> None:
    """In headers, in a tool, in the body; without the scheme."""
    headers = {"x-up": "Bearer one", "x-team": "a", "api-key": "two"}
    tools = [{"type": "mcp", "authorization": "three", "headers": {"X-Auth": "Basic four"}}]
    body = {"options": {"apiKey": "five", "max_tokens": 5, 1: "x"}}
    assert sorted(credentials_in([headers, tools, body, None])) == [
        *("five", "four", "one", "three", "two")
    ]


def test_credentials_of_an_address() -> None:
    """As written and decoded; of short values only what is certainly secret."""
    url = (
        "https://us%20er:p%40ss@llm.example/v1?key=abc&region=eu&code=12345678&api-version=20260101"
    )
    pair = base64.b64encode(b"us er:p@ss").decode()
    found = set(credentials_of_address(url))
    assert {"p%40ss", "p@ss", "abc", "12345678", pair} <= found
    assert not found & {"eu", "20260101", "us er"}
    assert [*credentials_of_address("http://[")] == []
    assert without_credentials(url) == "https://llm.example/v1?api-version=20260101"
    assert without_credentials("http://[::1]:8080/v1") == "http://[::1]:8080/v1"
