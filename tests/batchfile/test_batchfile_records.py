"""Lines of the output: what they say, and that every reader of lines reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every

from llmstream import ConfigurationError, RateLimitError, StreamInterrupted
from llmstream.batchfile import Row, encode_outcome, read_head
from llmstream.batchfile.records import BEGINNING, Head
from llmstream.readers.outcome import Outcome
from llmstream.result import LLMStreamError, Result, ToolCall, Usage

ROW = Row("a", 3, {"prompt": "Hi"})
ODD = "\u2028\u2029\x85\x00\x0b\x0c\x1c\r\n\ud83d\ude00"


def answered(row: Row = ROW, **fields: Any) -> bytes:
    return encode_outcome(row, Outcome(0, row.prompt, Result(**fields), None))


def failed(error: LLMStreamError, row: Row = ROW) -> bytes:
    return encode_outcome(row, Outcome(0, row.prompt, None, error))


def test_an_answer_is_a_text_with_usage_and_finish() -> None:
    """And its id first; what has no value is left out."""
    line = answered(text="Hello", finish="stop", usage=Usage(input_tokens=1, output_tokens=2))
    assert line.startswith(BEGINNING)
    assert json.loads(line) == {
        "id": "a",
        "line": 3,
        "text": "Hello",
        "finish": "stop",
        "usage": {"input_tokens": 1, "output_tokens": 2},
        "attempts": 0,
    }


def test_calls_refusals_and_metadata_are_there() -> None:
    row = Row(7, 1, {"prompt": "Hi"}, metadata={"k": [1]}, digest="00ff")
    found = json.loads(
        answered(
            row,
            refusal="no",
            thinking="hm",
            tool_calls=(ToolCall("c1", "weather", '{"city": "Rome"}'),),
            incomplete_tool_calls=(ToolCall(None, "half", '{"ci', custom=True),),
        )
    )
    assert found["tool_calls"] == [{"id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}]
    assert found["incomplete_tool_calls"][0]["custom"] is True
    assert (found["text"], found["refusal"], found["thinking"]) == ("", "no", "hm")
    assert (found["id"], found["digest"], found["metadata"]) == (7, "00ff", {"k": [1]})


def test_an_error_has_what_had_arrived() -> None:
    """Inside the error: a `text` of the line is always a whole answer."""
    error = StreamInterrupted("cut")
    error.partial = Result(text="half", usage=Usage(input_tokens=1))
    found = json.loads(failed(error))
    assert "text" not in found
    assert found["error"] == {
        "type": "StreamInterrupted",
        "message": "cut",
        "retryable": True,
        "text": "half",
        "usage": {"input_tokens": 1},
    }
    limited = json.loads(failed(RateLimitError("slow down", status=429, code="rate_limit")))
    assert (limited["error"]["status"], limited["error"]["code"]) == (429, "rate_limit")


@pytest.mark.parametrize("make", [lambda text: answered(text=text), lambda t: failed(_error(t))])
def test_a_line_is_one_line_for_every_reader(make: Any) -> None:
    """Also for those that end lines where Unicode does; and it is ASCII or UTF-8."""
    line = make(ODD.encode("utf-16", "surrogatepass").decode("utf-16"))
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1
    assert read_head(line.strip()).key == "a"


def _error(text: str) -> LLMStreamError:
    error = StreamInterrupted("cut")
    error.partial = Result(text=text)
    return error


def test_half_a_character_is_written() -> None:
    """As JSON's escape; so is a number that is too large for most encoders."""
    row = Row("a", 1, {}, metadata=10**30)
    assert json.loads(answered(row, text="\ud800")) | {"attempts": 0} == {
        "id": "a",
        "line": 1,
        "metadata": 10**30,
        "text": "\ud800",
        "attempts": 0,
    }


def test_what_is_written_is_read() -> None:
    """The id, whether it failed, and the digest."""
    row = Row(5, 5, {}, digest="ab")
    heads = [read_head(answered(row).strip()), read_head(failed(StreamInterrupted("x")).strip())]
    assert [(head.key, head.failed, head.digest) for head in heads] == [
        ("5", False, "ab"),
        ("a", True, ""),
    ]


@pytest.mark.parametrize(
    ("line", "fails"),
    [
        (b'{"id": "a", "text": "x", "usage": {}, "finish": "stop"}', False),
        (b'{"error": null, "text": "", "id": "a"}', False),
        (b'{"id": "a", "error": "boom"}', True),
        (b'{"id": "a", "text": null, "error": {"type": "ServerError"}}', True),
    ],
)
def test_lines_of_another_program_are_read(line: bytes, fails: bool) -> None:
    """With white space, another order, and null for what is left out."""
    assert read_head(line) == Head("a", fails)


@every(
    "line",
    [
        b"",
        b"{}",
        b'{"id":"a","text":null}',
        b'{"id":"a","text":null,"error":null}',
        b"nonsense",
        b'{"id":"a"}',
        b'{"id":"a","prompt":"Hi"}',
        b'{"id":null,"text":""}',
        b'{"id":1.5,"text":""}',
        b'{"text":""}',
        b'{"id":"a","text":"","error":{}}',
        b'["id","text"]',
    ],
)
def test_other_lines_are_refused(line: bytes) -> None:
    """An output that is none is not appended to."""
    with pytest.raises(ConfigurationError):
        read_head(line)
