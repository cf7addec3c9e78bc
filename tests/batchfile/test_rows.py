"""What a line of the input may say, and what its mistakes are called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every

from llmstream import ConfigurationError, RetryPolicy, Timeouts
from llmstream.batchfile import Row, parse_row

TURNS = [{"role": "user", "content": "Hi"}]


def row(line: Any, api: str = "chat", number: int = 3) -> Row:
    data = line if isinstance(line, bytes) else json.dumps(line).encode()
    return parse_row(data, number, api)


@every(
    ("line", "prompt"),
    [
        ({"prompt": "Hi"}, {"prompt": "Hi"}),
        ({"messages": TURNS}, {"prompt": TURNS}),
        ({"input": "Hi"}, {"prompt": "Hi"}),
        (
            {"prompt": "Hi", "model": "m", "temperature": 0, "stop": ["x"], "top_p": None},
            {"prompt": "Hi", "model": "m", "temperature": 0, "stop": ["x"]},
        ),
        ({"prompt": "Hi", "max_tokens": 7}, {"prompt": "Hi", "max_output_tokens": 7}),
        ({"prompt": "Hi", "system": "be brief"}, {"prompt": "Hi", "instructions": "be brief"}),
        (
            {"prompt": "Hi", "timeouts": {"total": 9}, "retry": {"max_attempts": 1}},
            {"prompt": "Hi", "timeouts": Timeouts(total=9), "retry": RetryPolicy(max_attempts=1)},
        ),
    ],
)
def test_a_line_is_a_prompt_with_options(line: dict[str, Any], prompt: dict[str, Any]) -> None:
    """Those of Client.stream, also under the names that the vendors have for them."""
    assert row({"id": "a", **line}).prompt == prompt


@pytest.mark.parametrize(("given", "key"), [("a", "a"), ("é\u2028", "é\u2028"), (7, "7"), (0, "0")])
def test_an_id_is_a_string_or_a_whole_number(given: Any, key: str) -> None:
    """It is kept as it is, and compared as text."""
    found = row({"id": given, "prompt": "Hi"})
    assert (found.id, found.key, found.digest) == (given, key, "")


@pytest.mark.parametrize("line", [{"prompt": "Hi"}, {"id": None, "prompt": "Hi"}])
def test_a_line_without_an_id_has_its_number(line: dict[str, Any]) -> None:
    """And a digest of what it says, so that a line that has moved is noticed."""
    found = row(line)
    assert (found.id, found.key) == (3, "3")
    assert found.digest == row({**line, "id": None}, number=9).digest != ""
    assert found.digest != row({"prompt": "Ho"}).digest


def test_a_digest_is_of_the_content() -> None:
    """Not of the order of the fields, nor of white space."""
    one = row(b'{"prompt": "Hi", "model": "m"}')
    assert one.digest == row(b'{"model":"m","prompt":"Hi"}').digest


def test_openais_batch_lines_are_read() -> None:
    """What this library has as an option is one; the rest is sent as it is, without `stream`."""
    body = {
        "model": "m",
        "messages": TURNS,
        "max_completion_tokens": 9,
        "response_format": {"type": "json_object"},
        "stream": False,
        "seed": 4,
    }
    line = {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    found = row(line)
    assert (found.id, found.prompt) == (
        "r1",
        {
            "prompt": TURNS,
            "model": "m",
            "max_output_tokens": 9,
            "extra_body": {"response_format": {"type": "json_object"}, "seed": 4},
        },
    )


def test_anthropics_batch_requests_are_read() -> None:
    """A system prompt in blocks is sent as it is."""
    blocks = [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
    params = {"model": "m", "max_tokens": 9, "messages": TURNS, "system": blocks}
    found = row({"custom_id": "r1", "params": params}, "messages")
    assert found.prompt == {
        "prompt": TURNS,
        "model": "m",
        "max_output_tokens": 9,
        "extra_body": {"system": blocks},
    }


@every(
    ("line", "words"),
    [
        (b"{", "line 3: not a JSON object"),
        (b"nonsense", "not a JSON object"),
        (b'"text"', 'write {"id": "...", "prompt": "..."}'),
        (b'[{"id": 1}]', "jq -c '.[]'"),
        (b'{"id": NaN, "prompt": "Hi"}', "not a JSON object"),
        (b'{"id": "a", "prompt": "\\ud800"}', "not a JSON object"),
        (b'{"id": "a", "prompt": "\xff"}', "not UTF-8"),
        (b'\xff\xfe{\0"\0', "UTF-16"),
        (b"\x1f\x8b\x08\0", "gzip -dc"),
        (b"[" * 100_000, "line 3: "),
        ({}, "it has no prompt: write"),
        ({"id": "a"}, "it has no prompt: write"),
        ({"prompt": None}, "it has no prompt"),
        ({"prompt": "Hi", "messages": TURNS}, "both 'prompt' and 'messages'"),
        ({"prompt": "Hi", "temprature": 1}, "did you mean 'temperature'?"),
        ({"prompt": "Hi", "category": 1}, "into 'metadata'"),
        ({"request": {"contents": []}}, 'write {"id"'),
        ({"id": "a", "custom_id": "a", "prompt": "Hi"}, "both 'id' and 'custom_id'"),
        ({"id": "", "prompt": "Hi"}, "its id is an empty string: give a string or a whole number"),
        ({"id": 1.0, "prompt": "Hi"}, "its id is 1.0: give a string or a whole number"),
        ({"id": True, "prompt": "Hi"}, "its id is True"),
        ({"id": ["a"], "prompt": "Hi"}, "its id is an object of type list"),
        ({"id": "x" * 513, "prompt": "Hi"}, "more than 512 characters"),
        ({"prompt": "Hi", "max_tokens": 1, "max_output_tokens": 2}, "given twice"),
        ({"prompt": "Hi", "timeouts": 3}, 'timeouts: give an object such as {"connect": 10}'),
        (
            {"prompt": "Hi", "timeouts": {"totl": 3}},
            "timeouts: 'totl' is not known; it has connect",
        ),
        ({"prompt": "Hi", "timeouts": {"total": -3}}, "line 3: Timeouts(total=-3)"),
        (
            {"custom_id": "a", "url": "/v1/embeddings", "body": {"model": "m", "input": "Hi"}},
            "its url ends with 'embeddings'",
        ),
        (
            {"custom_id": "a", "body": {"model": "m", "input": "Hi", "text": {"format": {}}}},
            "its 'text' is a field of the API 'responses', and this client's is 'chat'",
        ),
    ],
)
def test_a_mistake_names_the_line_and_the_remedy(line: Any, words: str) -> None:
    """One sentence each."""
    with pytest.raises(ConfigurationError) as raised:
        row(line)
    assert raised.value.message.startswith("line 3: ")
    assert words in raised.value.message


def test_no_message_shows_a_prompt() -> None:
    """Nor does the repr of a row."""
    secret = "the merger with Umbrella"
    for line in ({"id": [secret], "prompt": secret}, {"prompt": secret, "messages": [secret]}):
        with pytest.raises(ConfigurationError) as raised:
            row(line)
        assert secret not in raised.value.message
    assert secret not in repr(row({"id": "a", "prompt": secret, "metadata": secret}))
