"""Records as values."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest
from every import every
from support import PROMPT
from told import THREE, TRACE, make, timed

from llmstream import Cancelled, DeadlineExceeded, RateLimitError, Usage
from llmstream.telemetry.records import AttemptRecord, RequestContent, error_code
from llmstream.testing import Reply

pytestmark = pytest.mark.usefixtures("nothing_left")


def some_records() -> list[Any]:
    client, _, told = make(Reply.error(429), timed("responses", THREE))
    client.stream(PROMPT, trace_id=TRACE).result()
    return [told.calls[0], told.end, *told.attempts, *told.end.retries]


def test_records_are_values() -> None:
    """Frozen, equal where their fields are, hashable, picklable, and JSON through msgspec."""
    for record in some_records():
        for field in record.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(record, field, None)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(record, protocol))
            assert again == record
            assert again is not record
            assert hash(again) == hash(record)
        written = msgspec.json.encode(record)
        assert msgspec.json.decode(written, type=type(record)) == record
        assert json.loads(written)
        assert record != msgspec.structs.replace(record, error_type="Other")
        assert type(record).__name__ in repr(record)


@every(
    ("fields", "code"),
    [
        ({"code": "insufficient_quota", "type": "t"}, "insufficient_quota"),
        ({"type": "overloaded_error"}, "overloaded_error"),
        ({"status": 418}, "418"),
        ({"code": "a sentence of the service", "status": 400}, "other"),
        ({"code": "two\nlines"}, "other"),
        ({"code": "x" * 65}, "other"),
        ({"code": 'quote"'}, "other"),
        ({"code": "ünknown"}, "other"),
        ({}, None),
    ],
)
def test_the_code_of_an_error(fields: dict[str, Any], code: str | None) -> None:
    """The service's code, otherwise its type, otherwise the status; a code that is not a plain word
    is "other"."""
    error = RateLimitError("m", **fields)
    assert error_code(error) == code


def test_only_the_service_has_codes() -> None:
    """A timeout, a cancel, a success have none."""
    assert error_code(None) is None
    assert error_code(Cancelled("m")) is None
    assert error_code(DeadlineExceeded("m")) is None


def test_content_is_not_in_a_repr() -> None:
    """The prompt, the instructions and the tools are in no log line that shows the object."""
    content = RequestContent("the prompt", "the instructions", [{"name": "the tool"}])
    for shown in (repr(content), str(content), f"{content}", f"{[content]}", f"{(content,)!r}"):
        assert "the " not in shown
        assert "RequestContent(...)" in shown
    assert (content.prompt, content.instructions) == ("the prompt", "the instructions")


@pytest.mark.parametrize(
    ("api", "whole"), [("messages", 17), ("responses", 12), ("gemini", 12), ("toy", 12)]
)
def test_tokens_in_are_the_whole_prompt(api: str, whole: int) -> None:
    """Where cached tokens are counted beside the others, they are added."""
    usage = Usage(12, 34, None, 3, None, 2)
    attempt = AttemptRecord(
        trace_id="t", api=api, model="m", host="h", number=1, outcome="success", phase="done"
    )
    assert attempt.tokens_in is None
    assert msgspec.structs.replace(attempt, usage=usage).tokens_in == whole
