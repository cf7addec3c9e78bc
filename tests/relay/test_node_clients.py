"""The real clients of the front ends, in Node, read what the relay sends: `AbstractChat` of `ai` 5,
6 and 7 (`useChat` is one), `HttpAgent` of @ag-ui/client, and OpenAI's own client.

One process of Node reads the bodies of all recordings. What a client shows is compared with what
the library itself makes of a recording; and no client ever takes a part of an answer for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from corpus import Recording
from random_answers import Made, random_answer
from relayed import (
    MODEL_ASKED,
    all_recordings,
    answer_of,
    body_of,
    events_in,
    frames_of,
    in_node,
    node_packages,
    parts_in,
)

from llmstream import Client, Result, RetryPolicy, relay
from llmstream.errors import LLMStreamError
from llmstream.relay.failures import MESSAGES
from llmstream.relay.parts import (
    Begin,
    CallArguments,
    CallBegin,
    CallEnd,
    End,
    Failure,
    Part,
    Refusal,
    Restart,
    Retry,
    Text,
    Thinking,
    merged,
)
from llmstream.relay.protocols.base import COMMENT, reported, with_id
from llmstream.result import ToolCall, Usage
from llmstream.testing import Answer, Cut, FakeTransport, LLMServer, Reply, Silence

pytestmark = [pytest.mark.node, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def installed() -> None:
    node_packages()


class Reader(NamedTuple):
    """A client, and the protocol that it reads."""

    package: str
    script: str
    protocol: str
    version: int | str | None

    def read(self, jobs: list[dict[str, Any]]) -> list[Any]:
        """`jobs` have a name, a body, and how the body ends."""
        if self.protocol == "ui-message":
            jobs = [
                {
                    "name": job["name"],
                    "messages": job.get("messages"),
                    "steps": [{**job, "do": "send"}],
                }
                for job in jobs
            ]
        return in_node(self.script, self.package, jobs)

    def frames(self, parts: list[Part], **options: Any) -> list[str]:
        return frames_of(parts, self.protocol, self.version, **options)


AI = [Reader(f"ai{version}", "ai.mjs", "ui-message", version) for version in (5, 6, 7)]
AGUI = Reader("@ag-ui/client", "ag_ui.mjs", "ag-ui", None)
OPENAI = Reader("openai", "openai.mjs", "chat-completions", None)

ai = pytest.mark.parametrize("reader", AI, ids=lambda reader: reader.package)
every_page = pytest.mark.parametrize("reader", [*AI, AGUI], ids=lambda reader: reader.package)

FINISH = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "refusal": "content-filter",
    "tool_calls": "tool-calls",
}
COUNTS = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "total_tokens": "totalTokens",
    "cached_tokens": "cachedInputTokens",
    "reasoning_tokens": "reasoningTokens",
    "cache_write_tokens": "cacheWriteInputTokens",
}


# ---- what a client has made of a body ------------------------------------------------------------


def is_whole(reader: Reader, verdict: Any) -> bool:
    """Whether a page would take the answer for whole."""
    if reader is AGUI:
        finished = verdict["finished"]
        return finished is not None and finished["outcome"] == "success"
    return (
        verdict["status"] == "ready"
        and verdict["end"]["finishReason"] not in (None, "interrupted", "error")
    ) or (verdict["metadata"] or {}).get("complete") is True


def error_shown(reader: Reader, verdict: Any) -> str | None:
    if reader is AGUI:
        error = verdict["error"] or {}
        return error.get("message") or verdict["failed"] or verdict["rejected"]
    found: str | None = verdict["error"] if verdict["status"] == "error" else None
    return found


def calls_shown(reader: Reader, verdict: Any) -> list[tuple[str, str, Any]]:
    """The calls that a page may run: the id, the name, and the input or the text of it."""
    if reader is AGUI:
        return [(t["id"], t["name"], t["arguments"]) for t in verdict["tools"]]
    return [
        (t["id"], t["name"], t["input"])
        for t in verdict["tools"]
        if t["state"] == "input-available"
    ]


def are_calls(reader: Reader, verdict: Any, calls: tuple[ToolCall, ...]) -> bool:
    """Whether the page may run these, and no others. It has them in the order in which they began.
    AG-UI passes on the text, which may be another spelling of the same JSON."""
    shown = {call[0]: call for call in calls_shown(reader, verdict)}
    whole = {call.id: call for call in calls}
    return shown.keys() == whole.keys() and all(
        shown[id][1] == call.name and input_of(reader, shown[id][2], call) == call.parsed()
        for id, call in whole.items()
    )


def input_of(reader: Reader, shown: Any, call: ToolCall) -> Any:
    if reader is AGUI and not call.custom:
        return ToolCall(None, "", shown).parsed()
    return shown


def faults(reader: Reader, verdict: Any, result: Result, error: LLMStreamError | None) -> list[str]:
    """What differs from the library's own result."""
    expected = {"text": result.text, "thinking": result.thinking, "refusal": result.refusal}
    found = [name for name, text in expected.items() if verdict[name] != text]
    if error is not None:
        message = MESSAGES[type(error)]
        return found + ([] if error_shown(reader, verdict) == message else ["error"])
    if not is_whole(reader, verdict) or error_shown(reader, verdict) is not None:
        found.append("not whole")
        return found
    if not are_calls(reader, verdict, result.tool_calls):
        found.append("calls")
    usage = reported(result.usage) or {}
    if reader is AGUI:
        shown = (verdict["finished"]["usage"] or [{}])[0]
        named = {COUNTS[name]: count for name, count in usage.items() if name in COUNTS}
        if {k: v for k, v in shown.items() if k != "model"} != named:
            found.append("usage")
        if verdict["result"].get("finish") != result.finish:
            found.append("finish")
        if verdict["finished"]["pending"] != [call.id for call in result.tool_calls]:
            found.append("pending")
    else:
        metadata = verdict["metadata"]
        model = result.model or MODEL_ASKED  # until the service says which one it is
        if metadata.get("usage", {}) != usage or metadata.get("model") != model:
            found.append("usage")
        if verdict["end"]["finishReason"] != FINISH.get(result.finish or "", "other"):
            found.append("finish")
        if metadata.get("finish") != result.finish or verdict["streaming"]:
            found.append("finish of the message")
    return found


def named_faults(
    jobs: list[dict[str, Any]], verdicts: list[Any], look: Callable[[Any, Any], Any]
) -> dict[str, Any]:
    pairs = zip(jobs, verdicts, strict=True)
    return {job["name"]: wrong for job, verdict in pairs if (wrong := look(job, verdict))}


# ---- recordings ----------------------------------------------------------------------------------


@every_page
def test_every_recording_is_shown_as_it_is(reader: Reader) -> None:
    """Text, thinking, refusals, tool inputs, finish and usage are those of `result()`."""
    recordings = all_recordings()
    jobs = [
        {"name": r.name, "body": body_of(r, reader.protocol, reader.version)} for r in recordings
    ]
    answers = {r.name: answer_of(r) for r in recordings}
    assert len(answers) == len(recordings)
    wrong = named_faults(
        jobs, reader.read(jobs), lambda job, verdict: faults(reader, verdict, *answers[job["name"]])
    )
    assert wrong == {}


@every_page
def test_no_event_makes_a_part_of_an_answer_whole(reader: Reader) -> None:
    """The page is looked at before each event of each recording: it is never done before the last
    one, and its text is a beginning of the answer's."""
    jobs = [{"name": r.name, "body": reader.frames(parts_in(r))} for r in all_recordings()]

    def look(job: Any, verdict: Any) -> Any:
        # AI SDK: `finish` or `error`, and the marker of the end after it.
        last = len(job["body"]) - (1 if reader is AGUI else 2)
        return verdict["odd"] or [at for at in verdict["early"] if at <= last]

    assert named_faults(jobs, reader.read(jobs), look) == {}


CUT = "The answer was cut off before its end."


def cuts(recording: Recording, most: int) -> Iterator[tuple[Part, ...]]:
    """The parts of a recording up to `most` places, from the first to the last."""
    parts = parts_in(recording)
    last = len(parts) - 1
    for place in sorted({1 + (last - 1) * number // (most - 1) for number in range(most)}):
        yield parts[:place]


@every_page
def test_an_answer_that_is_cut_is_an_error(reader: Reader) -> None:
    """Wherever the upstream ends: the page shows the error, beside what had arrived."""
    failure = Failure(type="StreamInterrupted", message=CUT, trace_id="trace-1")
    jobs: list[dict[str, Any]] = []
    texts: list[str] = []
    for recording in all_recordings():
        for parts in cuts(recording, 5):
            name = f"{recording.name}[:{len(parts)}]"
            jobs.append({"name": name, "body": "".join(reader.frames(merged([*parts, failure])))})
            texts.append("".join(part.text for part in parts if isinstance(part, Text)))

    def is_right(verdict: Any, text: str) -> bool:
        return (
            error_shown(reader, verdict) == CUT
            and not is_whole(reader, verdict)
            and verdict["text"] == text
        )

    verdicts = zip(reader.read(jobs), texts, strict=True)
    assert [verdict for verdict, text in verdicts if not is_right(verdict, text)] == []


@every_page
def test_a_body_that_is_cut_is_never_whole(reader: Reader) -> None:
    """Between the relay and the browser. A lost connection is an error; what a proxy ends cleanly
    no client of these protocols calls one, but it has no finish, and the message says so."""
    jobs = []
    for recording in all_recordings():
        frames = reader.frames(merged(parts_in(recording)))
        frames = [frame for frame in frames if "[DONE]" not in frame]
        for count in {1, min(4, len(frames) - 1), len(frames) - 1}:
            for breaks in (True, False):
                body = "".join(frames[:count])
                jobs.append({"name": f"{recording.name}[:{count}]", "body": body, "breaks": breaks})

    def is_right(job: Any, verdict: Any) -> bool:
        if is_whole(reader, verdict):
            return False
        if job["breaks"]:
            return error_shown(reader, verdict) is not None
        return reader is AGUI or verdict["end"]["finishReason"] is None

    verdicts = zip(jobs, reader.read(jobs), strict=True)
    assert [verdict for job, verdict in verdicts if not is_right(job, verdict)] == []


@every_page
def test_heartbeats_and_ids_are_nothing(reader: Reader) -> None:
    """Comments before the first event and between any two, and an id on each."""
    jobs, answers = [], {}
    for recording in all_recordings()[::5]:
        frames = reader.frames(merged(parts_in(recording)))
        noisy = [
            with_id(frame.encode(), f"1700000000-{number}") + COMMENT
            for number, frame in enumerate(frames)
        ]
        jobs.append({"name": recording.name, "body": (COMMENT + b"".join(noisy)).decode()})
        answers[recording.name] = answer_of(recording)
    wrong = named_faults(
        jobs, reader.read(jobs), lambda job, verdict: faults(reader, verdict, *answers[job["name"]])
    )
    assert wrong == {}


@every_page
def test_any_answer(reader: Reader) -> None:
    """Parts in any order: text, thinking, calls and the end are what they are."""
    made = [random_answer(seed) for seed in range(400)]
    can_begin_anew = reader in (AI[2], AGUI)
    made = [one for one in made if can_begin_anew or not one.begins_anew]
    jobs = []
    for number, one in enumerate(made):
        parts = merged(one.parts) if number % 2 else one.parts
        body = POSTED if number % 3 else None
        jobs.append({"name": str(number), "body": "".join(reader.frames(parts, body=body))})

    def wrong(one: Made, verdict: Any) -> list[str]:
        found = [
            name for name in ("text", "thinking", "refusal") if verdict[name] != getattr(one, name)
        ]
        if is_whole(reader, verdict) != (one.end == "whole"):
            found.append("whole")
        if error_shown(reader, verdict) != ("It ended." if one.end == "failed" else None):
            found.append("error")
        if one.end != "cut" and not are_calls(reader, verdict, one.tool_calls):
            found.append("calls")
        if reader is AGUI and sorted(verdict["calls"]) != sorted(c.id for c in one.tool_calls):
            found.append("calls that were announced")
        return found

    verdicts = zip(made, reader.read(jobs), strict=True)
    assert [(one, v) for one, verdict in verdicts if (v := wrong(one, verdict))] == []


# ---- single answers ------------------------------------------------------------------------------

BEGIN = Begin("trace-1", "m")
USED = Usage(input_tokens=3, output_tokens=4)
END = End(finish="stop", usage=USED, model="m", trace_id="trace-1")
CALL = [CallBegin("c1", "get"), CallArguments("c1", '{"a":'), CallArguments("c1", "1}")]
WHOLE_CALL = [*CALL, CallEnd("c1", "get", '{"a":1}')]
HALF_CALL = [CallBegin("c2", "cut"), CallArguments("c2", '{"b":')]
CALLED = End(
    finish="tool_calls", tool_calls=(ToolCall("c1", "get", '{"a":1}'),), trace_id="trace-1"
)
STOPPED = Failure(type="Cancelled", message="The answer was stopped.", trace_id="trace-1")


POSTED = {
    "threadId": "thread-1",
    "runId": "run-1",
    "messages": [{"id": "user-1", "role": "user", "content": "Hello"}],
}
Check = Callable[[Reader, Any], None]


class Single(NamedTuple):
    parts: tuple[Part, ...]
    check: Check
    body: Any
    restarts: bool


SINGLES: list[Single] = []


def single(*parts: Part, body: Any = None, restarts: bool = False) -> Callable[[Check], Check]:
    """What a client makes of one answer. `restarts`: only of clients that can begin anew."""

    def register(check: Check) -> Check:
        SINGLES.append(Single(parts, check, body, restarts))
        return check

    return register


@every_page
def test_single_answers(reader: Reader) -> None:
    """The checks below, in one process of Node."""
    singles = [one for one in SINGLES if not one.restarts or reader in (AI[2], AGUI)]
    jobs = []
    for one in singles:
        body = "".join(reader.frames([*one.parts], body=one.body))
        jobs.append({"name": one.check.__name__, "body": body})
    for one, verdict in zip(singles, reader.read(jobs), strict=True):
        one.check(reader, verdict)


# Those that end lines, tags and strings elsewhere.
ODD = 'a\r\nb\rc\nd\u2028e\u2029f\x85g\x00h</script>i"j\\k😀l \u200dm'


@single(BEGIN, Thinking(ODD), Text(ODD), Text("\ud83d"), END)
def odd_characters_survive(reader: Reader, verdict: Any) -> None:
    assert verdict["text"] == ODD + "\ufffd"
    assert verdict["thinking"] == ODD


@single(
    *(BEGIN, Text("Hi"), *WHOLE_CALL, *HALF_CALL),
    End(finish="length", tool_calls=CALLED.tool_calls),
)
def a_call_that_was_cut_is_never_shown_as_whole(reader: Reader, verdict: Any) -> None:
    """Not to the page, and not to what runs calls."""
    assert is_whole(reader, verdict)
    assert are_calls(reader, verdict, CALLED.tool_calls)
    if reader is AGUI:
        assert verdict["calls"] == verdict["finished"]["pending"] == ["c1"]
    else:
        (cut,) = [tool for tool in verdict["tools"] if tool["id"] == "c2"]
        assert (cut["state"], cut["input"]) == ("output-error", "")


@single(BEGIN, *HALF_CALL, End(finish="length"))
def a_call_that_was_cut_is_not_pending(reader: Reader, verdict: Any) -> None:
    assert calls_shown(reader, verdict) == []
    assert reader is not AGUI or verdict["finished"]["pending"] == []


@single(BEGIN, *CALL, CallEnd("c1", "put", '{"a":2}', rewritten=True), CALLED)
def arguments_that_were_rewritten_count_once(reader: Reader, verdict: Any) -> None:
    """What the service has sent in the end is right, and is announced alone."""
    assert are_calls(reader, verdict, (ToolCall("c1", "put", '{"a":2}'),))
    assert reader is not AGUI or verdict["calls"] == ["c1"]


CODE = 'print("x")\r\n\u2028'


@single(
    *(BEGIN, CallBegin("k", "run", True), CallArguments("k", CODE)),
    *(CallEnd("k", "run", CODE, True), END),
)
def free_text_is_an_input(reader: Reader, verdict: Any) -> None:
    assert calls_shown(reader, verdict) == [("k", "run", CODE)]


@single(BEGIN, CallBegin("k", "now"), CallEnd("k", "now", "{}"), END)
def a_call_without_arguments(reader: Reader, verdict: Any) -> None:
    assert are_calls(reader, verdict, (ToolCall("k", "now", "{}"),))


@single(
    *(BEGIN, CallBegin("p", "f"), CallArguments("p", '{"__proto__":{"x":1}}')),
    *(CallEnd("p", "f", '{"__proto__":{"x":1}}'), *WHOLE_CALL, Text("Hi"), CALLED),
)
def an_input_that_changes_prototypes(reader: Reader, verdict: Any) -> None:
    """The AI SDK takes none, and would end the answer."""
    assert is_whole(reader, verdict)
    assert verdict["text"] == "Hi"
    shown = [call[0] for call in calls_shown(reader, verdict)]
    assert shown == (["p", "c1"] if reader is AGUI else ["c1"])


@single(BEGIN, Retry(2, "RateLimitError", 0.5), Text("Fine"), END)
def a_retry_is_told_beside_the_answer(reader: Reader, verdict: Any) -> None:
    assert is_whole(reader, verdict)
    assert verdict["text"] == "Fine"
    rest = {"reason": "RateLimitError", "delay": 0.5}
    if reader is AGUI:
        assert [note["value"] for note in verdict["custom"]] == [{"attempt": 2, **rest}]
    else:
        assert [note["data"] for note in verdict["data"]] == [{"retry": 2, **rest}]


def has_begun_anew(reader: Reader, verdict: Any) -> None:
    """Only the new answer is left, and the page keeps what it had before."""
    assert is_whole(reader, verdict)
    assert (verdict["text"], verdict["thinking"]) == ("Anew", "Oh")
    assert calls_shown(reader, verdict) == []
    if reader is AGUI:
        assert verdict["kept"] == ["user-1"]
        assert verdict["finished"]["pending"] == []


ANEW: list[Part] = [Restart(2), Thinking("Oh"), Text("Anew"), END]


@single(BEGIN, Thinking("Hm"), Text("Half "), *ANEW, restarts=True)
def an_answer_that_begins_anew(reader: Reader, verdict: Any) -> None:
    """And nothing has announced the half text as a message."""
    has_begun_anew(reader, verdict)
    assert reader is not AGUI or "msg-trace-1-2" not in verdict["announced"]


@single(BEGIN, Thinking("Hm"), Text("Half "), *ANEW, restarts=True, body=POSTED)
def an_answer_that_begins_anew_after_a_history(reader: Reader, verdict: Any) -> None:
    has_begun_anew(reader, verdict)
    assert reader is not AGUI or verdict["roles"] == ["reasoning", "assistant"]


@single(BEGIN, Text("Half "), *HALF_CALL, *ANEW, restarts=True)
def a_call_that_is_asked_anew(reader: Reader, verdict: Any) -> None:
    has_begun_anew(reader, verdict)
    assert reader is not AGUI or verdict["calls"] == []


@single(BEGIN, Thinking("Hm"), *HALF_CALL, *ANEW, restarts=True, body=POSTED)
def a_call_that_is_asked_anew_after_a_history(reader: Reader, verdict: Any) -> None:
    has_begun_anew(reader, verdict)


@single(BEGIN, Thinking("Hm"), Text("Half"), *HALF_CALL, STOPPED)
def a_stopped_answer_is_no_error_and_not_whole(reader: Reader, verdict: Any) -> None:
    assert error_shown(reader, verdict) is None
    assert not is_whole(reader, verdict)
    assert verdict["text"] == "Half"
    assert calls_shown(reader, verdict) == []
    if reader is AGUI:
        assert verdict["finished"]["outcome"] == "cancelled"
    else:
        assert verdict["metadata"]["complete"] is False
        expected = "interrupted" if reader.version == 7 else None
        assert verdict["end"]["finishReason"] == expected


@single(BEGIN, Refusal("I can not"), End(finish="refusal"))
def a_refusal_is_not_a_text(reader: Reader, verdict: Any) -> None:
    """The page can tell them apart."""
    assert (verdict["text"], verdict["refusal"]) == ("", "I can not")


@pytest.mark.parametrize("reader", AI[:2], ids=lambda reader: reader.package)
def test_a_page_that_cannot_begin_anew(reader: Reader) -> None:
    """`relay.sse` refuses such a stream; and if one begins anew nevertheless, it is an error."""
    body = "".join(reader.frames([BEGIN, Text("Half "), *ANEW]))
    (verdict,) = reader.read([{"name": "one", "body": body}])
    assert verdict["status"] == "error"
    assert not is_whole(reader, verdict)
    assert verdict["text"] == "Half "


@ai
def test_tools_that_the_page_knows(reader: Reader) -> None:
    """With `dynamic=False`; also one that was cut."""
    parts = [BEGIN, *WHOLE_CALL, *HALF_CALL, CALLED]
    body = "".join(reader.frames(parts, dynamic=False))
    (verdict,) = reader.read([{"name": "one", "body": body}])
    assert are_calls(reader, verdict, CALLED.tool_calls)
    assert [tool["type"] for tool in verdict["tools"]] == ["tool-get", "tool-cut"]


def test_ag_ui_takes_the_ids_of_the_request() -> None:
    """`HttpAgent` posts them; what it shows after a restart is its own history."""
    body = "".join(AGUI.frames([BEGIN, Text("Hi"), END], body=POSTED))
    job = {"name": "one", "body": body, "thread": "thread-1", "run": "run-1"}
    (verdict,) = AGUI.read([job])
    assert is_whole(AGUI, verdict)
    (request,) = verdict["requests"]
    assert {name: request[name] for name in POSTED} == POSTED
    assert {event["threadId"] for event in events_in([body.split("\n\n")[0]])} == {"thread-1"}


# ---- resuming: what `useChat` asks of a server ---------------------------------------------------

ANSWER: list[Part] = [BEGIN, Thinking("Hm"), Text("Hello "), Text("world"), END]
ASKED = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}
HALF = {
    "id": "msg-trace-1",
    "role": "assistant",
    "parts": [{"type": "text", "text": "Hel", "state": "streaming"}],
    "metadata": {"complete": False},
}
TOLD = {
    "id": "made-by-the-page",
    "role": "assistant",
    "parts": [
        {
            "type": "dynamic-tool",
            "toolName": "get",
            "toolCallId": "c0",
            "state": "output-available",
            "input": {},
            "output": 1,
        }
    ],
}


@ai
def test_resuming(reader: Reader) -> None:
    """GET {api}/{chat id}/stream is answered by the whole answer from its first event on, or by 204
    if there is nothing to resume."""
    frames = reader.frames(ANSWER)
    body = "".join(frames)
    anew = {"do": "resume", "body": body}
    going_on = "".join(reader.frames(ANSWER, body={"messages": [ASKED, TOLD]}))
    jobs = [
        {"steps": [{"do": "send", "body": "".join(frames[:6]), "breaks": True}, anew]},
        {"steps": [{"do": "send", "body": "".join(frames[:6])}, anew]},
        {"steps": [anew], "messages": [ASKED, HALF]},
        {"steps": [{"do": "send", "body": body}, {"do": "resume", "status": 204}]},
        {"steps": [{"do": "send", "body": frames, "stopAfter": 6}]},
        {"steps": [{"do": "again", "body": going_on}], "messages": [ASKED, TOLD]},
    ]
    jobs = [{"name": "one", **job} for job in jobs]
    lost, cut, loaded, nothing, stopped, grown = in_node(reader.script, reader.package, jobs)

    assert [(r["method"], r["url"]) for r in lost["requests"]] == [
        ("POST", "/api/chat"),
        ("GET", "/api/chat/chat-1/stream"),
    ]
    for verdict in (lost, cut, loaded, nothing):
        assert verdict["roles"] == ["user", "assistant"]  # and not the half answer and the whole
        assert is_whole(reader, verdict)
        assert verdict["status"] == "ready"
        assert verdict["text"] == "Hello world"

    assert stopped["status"] == "ready"  # stop was pressed on the page
    assert stopped["end"]["isAbort"]
    assert not (stopped["metadata"] or {}).get("complete")
    assert "Hello world".startswith(stopped["text"])

    assert grown["roles"] == ["user", "assistant"]  # an answer that goes on with a message
    assert grown["id"] == "made-by-the-page"
    assert [tool["id"] for tool in grown["tools"]] == ["c0"]
    assert grown["text"] == "Hello world"


def test_ag_ui_connects_to_a_replay() -> None:
    """`HttpAgent` does not by itself. A page that does takes away what it has of the answer: the
    client appends to a message that it knows."""
    frames = AGUI.frames(ANSWER)
    cut, body = "".join(frames[:7]), "".join(frames)
    (verdict,) = AGUI.read([{"name": "one", "body": cut, "replay": body}])
    assert is_whole(AGUI, verdict)
    assert verdict["roles"] == ["reasoning", "assistant"]
    assert verdict["text"] == "Hello world"


# ---- OpenAI's own client -------------------------------------------------------------------------


def test_every_recording_in_chat_completions() -> None:
    """Text, thinking, refusal, calls and usage; a failure is an error."""
    recordings = all_recordings()
    options = {"include_usage": True}
    jobs = [{"name": r.name, "body": body_of(r, "chat-completions", **options)} for r in recordings]
    answers = {r.name: answer_of(r) for r in recordings}

    def look(job: Any, verdict: Any) -> Any:
        result, error = answers[job["name"]]
        expected = (result.text, result.thinking, result.refusal)
        found = (verdict["text"], verdict["thinking"], verdict["refusal"])
        wrong = [] if expected == found else ["text"]
        if (error is None) != (verdict["error"] is None):
            wrong.append(f"error: {verdict['error']}")
        if error is not None:
            return wrong
        calls = [(call.id, call.name, call.arguments) for call in result.tool_calls]
        if [(t["id"], t["name"], t["arguments"]) for t in verdict["tools"]] != calls:
            wrong.append("calls")
        counts = (result.usage.input_tokens or 0, result.usage.output_tokens or 0)
        usage = verdict["usage"] or {}
        if (usage.get("prompt_tokens"), usage.get("completion_tokens")) != counts:
            wrong.append("usage")
        return wrong

    assert named_faults(jobs, OPENAI.read(jobs), look) == {}


# ---- from the service to the page ----------------------------------------------------------------


@pytest.mark.parametrize("reader", [AI[2], AGUI], ids=lambda reader: reader.package)
def test_a_stream_that_is_cut_and_begins_anew(reader: Reader) -> None:
    """`on_disconnect="restart"`, through `relay.sse`: in the end the page has the second answer."""
    begun = Answer("It was a dark and stormy night", thinking="Hm").blocks("messages")
    cut = Reply([*begun[:8], Cut()])
    transport = FakeTransport(cut, Answer("It was the best of times", thinking="Oh"))
    quick = RetryPolicy(base=0.0)
    with Client(
        "messages", base_url="http://service", model="m", transport=transport, retry=quick
    ) as client:
        stream = client.stream("Hi", on_disconnect="restart")
        body = b"".join(relay.sse(stream, reader.protocol, version=reader.version)).decode()
    assert len(transport.requests) == 2
    (verdict,) = reader.read([{"name": "one", "body": body}])
    assert is_whole(reader, verdict)
    assert (verdict["text"], verdict["thinking"]) == ("It was the best of times", "Oh")


@every_page
def test_a_stream_that_is_stopped_by_the_server(reader: Reader, server: LLMServer) -> None:
    """`stream.cancel`, while the page reads."""
    begun = Answer("It was a dark and stormy night").blocks("chat")
    server.script(Reply([*begun[:4], Silence()]))
    with Client("chat", base_url=server.base_url, model="m") as client:
        stream = client.stream("Hi")
        body = relay.sse(stream, reader.protocol, version=reader.version)
        begin = next(body)
        while not stream.text:
            begin += next(body)
        stream.cancel("enough")
        whole = (begin + b"".join(body)).decode()
    (verdict,) = reader.read([{"name": "one", "body": whole}])
    assert not is_whole(reader, verdict)
    assert error_shown(reader, verdict) is None
