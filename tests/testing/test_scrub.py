"""No secret gets into a recording: random keys, in every spelling, wherever a service has them."""

from __future__ import annotations

import base64
import html
import json
import random
import re
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from every import every

from llmstream import Client, RetryPolicy
from llmstream.testing import Answer, FakeTransport, Recorded, Reply, record, replay
from llmstream.testing.scrub import Scrubber

APIS = ("responses", "messages", "chat", "gemini")
SYMBOLS = "-_.~+/=&<>'\"\\%"


def random_key(random: random.Random) -> str:
    letters = string.ascii_letters + string.digits
    size = random.randint(24, 90)
    body = "".join(random.choice(letters + SYMBOLS * random.choice((0, 0, 1))) for _ in range(size))
    return random.choice(("sk-", "sk-ant-api03-", "Zx", "eyJ")) + body


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


SPELLINGS: dict[str, Any] = {
    "as it is": str,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[1:-1],
    "escaped": escaped,
    "URL": lambda text: quote(text, safe=""),
    "HTML": html.escape,
    "upper": str.upper,
    "hexadecimal": lambda text: text.encode().hex(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "with spaces": " ".join,
    "masked": lambda text: f"{text[:14]}***{text[-10:]}",
    "Bearer": lambda text: f"Bearer {text}",
}


def readings_of(text: str) -> set[str]:
    """What a person, or a program, can make of a file: as it is, and its escapes undone."""
    found = {text}
    for _ in range(3):
        text = _unescaped(text)
        found |= {text, html.unescape(text)}
    return {re.sub(r"[^a-z0-9]", "", one.lower()) for one in found}


def _unescaped(text: str) -> str:
    """JSON's escapes undone."""
    return re.sub(
        r"\\(?:u([0-9a-f]{4})|(.))",
        lambda m: chr(int(m[1], 16)) if m[1] else {"n": " ", "r": " ", "t": " "}.get(m[2], m[2]),
        text,
    )


def assert_secret(text: str, key: str) -> None:
    """No twelve letters and digits of the key in a row, however they are written; those of its
    spellings that are other letters neither."""
    data = key.encode()
    forms = [key, data.hex(), base64.b64encode(data).decode()]
    parts = {part for form in forms for part in _parts(re.sub(r"[^a-z0-9]", "", form.lower()))}
    for reading in readings_of(text):
        assert parts.isdisjoint(_parts(reading)), key


def _parts(text: str) -> list[str]:
    return [text[at : at + 12] for at in range(len(text) - 11)]


class InTokens(Answer):
    """Text in a model's own pieces, which do not end at words."""

    @property
    def text_deltas(self) -> list[str]:
        text = self.text
        return [text[at : at + 3] for at in range(0, len(text), 3)]


def leaky(said: str, where: str) -> Reply:
    """A service that repeats the key."""
    if where == "error":
        return Reply.error(401, message=f"Incorrect API key provided: {said} , sorry")
    if where == "page":
        return Reply.html(f"<p>Proxy log</p>\n<pre>{html.escape(said)}</pre>", status=502)
    if where == "header":
        plain = "".join(char for char in said if char.isprintable() and char.isascii())
        return Reply(Answer("ok"), headers={"x-echo": plain, "set-cookie": f"s={plain}"})
    text = f"You sent {said} just now"
    if where == "text":
        return Reply(Answer(text, usage=(1, 2)))
    if where == "arguments":
        return Reply(Answer(tool_calls=[("login", json.dumps({"k": text}))]))
    assert where == "tokens"
    return Reply(InTokens(text))


@pytest.mark.slow
@every("seed", range(12))
def test_no_key_is_in_the_file(tmp_path_factory: Any, seed: int) -> None:
    """Wherever it was sent (header, address, body), and wherever it comes back."""
    record_with_a_key(tmp_path_factory, seed)


@pytest.mark.slow
@every("seed", range(12, 100))
def test_no_key_of_many_is_in_the_file(tmp_path_factory: Any, seed: int) -> None:
    record_with_a_key(tmp_path_factory, seed)


def record_with_a_key(tmp_path_factory: Any, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("recordings") / "a.json"
    key, api = random_key(chance), chance.choice(APIS)
    names = [*SPELLINGS]
    wheres = ["error", "page", "header", "text", "arguments", "tokens"]
    replies = []
    for where in wheres:
        said = SPELLINGS[chance.choice(names)](key)
        replies.append(leaky(said, where))
    double = FakeTransport(*replies)
    safe = quote(key, safe="")
    settings, extra = {
        "key": ({"base_url": "http://test/v1", "api_key": key}, None),
        "header": ({"base_url": "http://test/v1", "headers": {"x-gateway-token": key}}, None),
        "query": ({"base_url": f"http://test/v1?sig={safe}&api-version=1"}, None),
        "user": ({"base_url": f"http://me:{safe}@test/v1"}, None),
        "body": ({"base_url": "http://test/v1"}, {"gateway": {"authorization": f"Bearer {key}"}}),
    }[chance.choice(("key", "key", "header", "query", "user", "body"))]
    options: dict[str, Any] = {"model": "m", "extra_body": extra}
    prompts = [f"Say {where}" for where in wheres] if chance.random() < 0.5 else [key] * 6
    with record(path, transport=double) as transport:
        seen = [_ask(Client(api, transport=transport, **settings), p, **options) for p in prompts]
    text = path.read_text("utf-8")
    assert_secret(text, key)
    assert "***" in text
    # And the file still is what was answered.
    with replay(path) as transport:
        for prompt, before in zip(prompts, seen, strict=True):
            again = _ask(Client(api, transport=transport, **settings), prompt, **options)
            assert type(again) is type(before)
            if isinstance(before, str) and "You sent" in before:
                assert re.search("You sent .* just now", again)


def _ask(client: Client, prompt: str, **options: Any) -> Any:
    stream = client.stream(prompt, retry=RetryPolicy(max_attempts=1), **options)
    try:
        result = stream.result()
    except Exception as exc:
        return exc
    return result.text or result.tool_calls[0].arguments


def test_accounts_and_cookies_stay_out(tmp_path: Path) -> None:
    """Ids of organizations and projects, in headers, in the words of errors, in fields."""
    double = FakeTransport(
        Reply.error(
            429,
            message="Rate limit reached for m in organization org-Ab12Cd34Ef56 on tokens per min",
            headers={
                "openai-organization": "acme-research-4711",
                "openai-project": "proj_12345678",
                "anthropic-organization-id": "b4c5d6e7-1111-2222-3333-444455556666",
                "set-cookie": "__cf_bm=abcdefghijkl; HttpOnly",
                "x-request-id": "req_kept",
            },
        ),
        Reply(
            [
                b'data: {"organization_id":"4711-acme","choices":[]}\n\n',
                *Answer("ok").blocks("chat"),
            ]
        ),
    )
    headers = {"OpenAI-Organization": "org-Zy98Xw76Vu54", "Cookie": "session=qwertzuiop"}
    settings: dict[str, Any] = {"base_url": "http://test/v1", "headers": headers}
    with record(tmp_path / "a.json", transport=double) as transport:
        client = Client("chat", transport=transport, **settings)
        for prompt in ("I am at acme-research-4711", "Hi"):
            _ask(client, prompt, model="m")
    text = (tmp_path / "a.json").read_text("utf-8")
    for secret in ("org-", "acme", "proj_", "b4c5d6e7", "cf_bm", "qwertz"):
        assert secret not in text, secret
    assert "req_kept" in text
    with replay(tmp_path / "a.json") as transport:  # what is blotted out matches what was there
        client = Client("chat", transport=transport, **settings)
        assert "organization ***" in str(_ask(client, "I am at acme-research-4711", model="m"))
        assert _ask(client, "Hi", model="m") == "ok"


def test_secrets_of_the_callers_own(tmp_path: Path) -> None:
    """Texts and patterns, in prompts and answers, in pieces too."""
    said = "Dear Anna Müller, call 0170 1234567"
    double = FakeTransport(InTokens(said))
    secrets = ["Anna Müller", re.compile(r"\d{4} \d{7}")]
    with record(tmp_path / "a.json", transport=double, secrets=secrets) as transport:
        client = Client("messages", base_url="http://test", transport=transport)
        client.stream("Greet Anna Müller, 0170 7654321", model="m").result()
    text = (tmp_path / "a.json").read_text("utf-8")
    assert "Anna" not in text
    assert "Müller" not in text
    assert "01234567" not in text.replace(" ", "")
    with replay(tmp_path / "a.json") as transport:
        client = Client("messages", base_url="http://test", transport=transport)
        assert client.stream("Greet Bob, 1", model="m").result().text == "Dear ***, call ***"


def test_keys_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that prints the environment has them in its output; the model may repeat it."""
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "tok-4711-qwertzuiop-0815")
    monkeypatch.setenv("SHORT_TOKEN", "the answer")
    said = "SOME_SERVICE_TOKEN=tok-4711-qwertzuiop-0815, the answer"
    double = FakeTransport(InTokens(said))
    with record(tmp_path / "a.json", transport=double) as transport:
        client = Client("chat", base_url="http://test", transport=transport)
        client.stream(f"Explain {said}", model="m").result()
    text = (tmp_path / "a.json").read_text("utf-8")
    assert "4711" not in text
    assert "TOKEN=***, the answer" in text
    with replay(tmp_path / "a.json") as transport:
        client = Client("chat", base_url="http://test", transport=transport)
        result = client.stream(f"Explain {said}", model="m").result()
        assert result.text == "SOME_SERVICE_TOKEN=***, the answer"


def test_what_has_no_secret_stays_byte_by_byte() -> None:
    """Spaces in JSON, odd line ends, a byte that is no text; and a signature is not a secret."""
    scrubber = Scrubber()
    headers = {"authorization": "Bearer sk-a-key-of-some-length"}
    scrubber.learn("https://a/v1?stream=true&starting_after=12345678", headers, b"{}", {})
    pieces = [
        (0.1, b': ping\r\n\r\ndata:  {"a" : 1,'),
        (0.2, b'"b":"\xc3'),
        (0.3, b'\xa4"}\n\nevent: x\rdata: [DONE]\n\ndata: {"half\n\n\xff\xfe'),
    ]
    assert scrubber.pieces(pieces) == pieces
    url = "https://a/v1/r?stream=true&starting_after=12345678&include[]=reasoning.encrypted_content"
    assert scrubber.url(url) == url
    block = {"type": "thinking", "thinking": "hm", "signature": "EqQBCkYIBBgCKkDn"}
    body = json.dumps({"messages": [{"content": [block]}], "max_tokens": 5}).encode()
    taped = scrubber.request("POST", "https://a", headers, body)
    assert taped.body == json.loads(body)
    assert taped.headers == {"authorization": "***"}


@pytest.mark.parametrize("size", [20_000])
def test_a_long_answer_costs_little(size: int) -> None:
    """Twenty thousand events, in steps that grow with their number: counted, not timed."""
    from support import executed_lines

    def lines(events: int) -> int:
        scrubber = Scrubber()
        scrubber.keys.add("sk-proj-0123456789abcdefghijklmnopq")
        delta = {"type": "response.output_text.delta", "delta": "word "}
        data = b"".join(b"data: " + json.dumps(delta).encode() + b"\n\n" for _ in range(events))
        return executed_lines(lambda: scrubber.pieces([(0.0, data)]))

    few, many = lines(size // 40), lines(size // 10)
    assert many <= 4.2 * few


def test_the_request_is_not_changed() -> None:
    """What was sent is what `requests` has."""
    body = {"authorization": "Bearer sk-12345678901234567890"}
    double = FakeTransport(Answer("a"))
    transport = record("unused.json", transport=double)
    client = Client("chat", base_url="http://test", transport=transport)
    client.stream("Hi", model="m", extra_body=body).result()
    sent: Recorded = transport.requests[0]
    assert sent.json()["authorization"] == body["authorization"]
    assert double.requests[0].json() == sent.json()
    transport.discard()
