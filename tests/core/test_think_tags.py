"""Thinking between tags in the text: split off across any cuts, and only at the beginning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from every import every
from hypothesis import given
from hypothesis import strategies as st
from support import AT_ONCE, ONCE

from llmstream import Client, ConfigurationError, LLMStreamError, Result
from llmstream._core.dialects.profiles import PROFILES
from llmstream._core.think_tags import ThinkTags
from llmstream.testing import Cut, FakeClock, FakeTransport, Pause, Reply

DONE = b"data: [DONE]\n\n"
LOCAL = ("llama.cpp", "lmstudio", "ollama", "vllm")


def split(*pieces: str, opened: bool = False) -> tuple[str, str]:
    """The thinking and the text."""
    tags = ThinkTags(opened=opened)
    found = {"thinking": "", "text": ""}
    for piece in pieces:
        for kind, text in tags.feed(piece):
            assert text
            found[kind] += text
    for kind, text in tags.close():
        assert text
        found[kind] += text
    assert tags.close() == []
    return found["thinking"], found["text"]


# ---- the rules ---------------------------------------------------------------------------------

# text, whether the thinking is open already -> (thinking, text)
SPLIT: list[tuple[str, bool, tuple[str, str]]] = [
    ("<think>Hm.</think>Yes.", False, ("Hm.", "Yes.")),
    ("<think>\nHm.\n</think>\n\nYes.\n", False, ("Hm.", "Yes.\n")),
    (" \n<think>Hm.</think>Yes.", False, ("Hm.", "Yes.")),
    ("<think>\n\n</think>\n\nYes.", False, ("", "Yes.")),  # Qwen3 without thinking
    ("<think></think>", False, ("", "")),
    ("<think>Hm. A < b </thinking> </ think>.", False, ("Hm. A < b </thinking> </ think>.", "")),
    ("<think>Hm.</</think>Yes.", False, ("Hm.</", "Yes.")),
    ("<think>Hm. <think> again</think>Yes.", False, ("Hm. <think> again", "Yes.")),
    ("<think>Hm.</think>The tag <think>x</think>.", False, ("Hm.", "The tag <think>x</think>.")),
    ("<think>Hm.</think></think>", False, ("Hm.", "</think>")),
    # unclosed
    ("<think>", False, ("", "")),
    ("<think>Hm. \n", False, ("Hm. \n", "")),
    ("<think>Hm. </thin", False, ("Hm. </thin", "")),
    # no thinking
    ("", False, ("", "")),
    (" \n", False, ("", " \n")),
    (" \n Yes.", False, ("", " \n Yes.")),
    (" <thin", False, ("", " <thin")),
    ("<thinking>x</thinking>", False, ("", "<thinking>x</thinking>")),
    ("<Think>x</Think>", False, ("", "<Think>x</Think>")),
    ("The tag <think>x</think>.", False, ("", "The tag <think>x</think>.")),
    ("x</think>y", False, ("", "x</think>y")),
    # opened in the prompt
    ("Hm.\n</think>\n\nYes.", True, ("Hm.", "Yes.")),
    ("\nHm.</think>Yes.", True, ("Hm.", "Yes.")),
    ("<think>\nHm.</think>Yes.", True, ("Hm.", "Yes.")),
    ("</think>Yes.", True, ("", "Yes.")),
    ("Hm.", True, ("Hm.", "")),
    ("<", True, ("<", "")),
    (" ", True, ("", "")),
]


@every(("text", "opened", "expected"), SPLIT)
def test_what_is_thinking(text: str, opened: bool, expected: tuple[str, str]) -> None:
    """Whole, and cut at every two places."""
    assert split(text, opened=opened) == expected
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            pieces = (text[:first], text[first:second], text[second:])
            assert split(*pieces, opened=opened) == expected, pieces


PIECES = st.sampled_from(
    ["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "é🙂", "<th", "ink>", "\u3000"]
)


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 60), max_size=12), st.booleans())
def test_cuts_change_nothing(parts: list[str], cuts: list[int], opened: bool) -> None:
    """Whatever the text; and but for tags and white space nothing is lost or added."""
    text = "".join(parts)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(places)]
    thinking, answer = split(*pieces, opened=opened)
    assert (thinking, answer) == split(text, opened=opened) == split(*text, opened=opened)
    # Each by itself: the end of one and the begin of the other may look like a tag.
    whole = "".join(re.sub(r"</?think>|\s", "", one) for one in (thinking, answer))
    assert whole == re.sub(r"</?think>|\s", "", text)
    if not opened and not text.lstrip().startswith("<think>"):
        assert (thinking, answer) == ("", text)


def test_long_white_space_is_looked_at_once() -> None:
    """A model in a loop of line ends: linear in their number."""
    tags = ThinkTags()
    assert tags.feed("<think>Hm.") == [("thinking", "Hm.")]
    for _ in range(200_000):
        assert tags.feed("\n") == []
    assert tags.feed("</think>Yes.") == [("text", "Yes.")]


# ---- an answer ---------------------------------------------------------------------------------


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n".encode()


def said(*pieces: str) -> list[bytes]:
    """Whole streams: the role, the pieces, the finish, usage and the marker."""
    usage = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": piece}) for piece in pieces),
        chunk({}, "stop"),
        f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode(),
        DONE,
    ]


def client_of(*replies: Any, **settings: Any) -> tuple[Client, FakeTransport, FakeClock]:
    transport, clock = FakeTransport(*replies), FakeClock()
    known = {"transport": transport, "clock": clock, "model": "m", "retry": ONCE}
    return Client("chat", base_url="http://t/v1", **{**known, **settings}), transport, clock


def answer(steps: list[Any], **settings: Any) -> Result:
    return client_of(Reply(steps), **settings)[0].stream("Hi").result()


THOUGHT = "<think>\nHm. Let me see.\n</think>\n\nYes. A <think> is a tag."


def cuts() -> Iterator[tuple[str, ...]]:
    for place in range(len(THOUGHT) + 1):
        yield THOUGHT[:place], THOUGHT[place:]
    yield tuple(THOUGHT)


@every("pieces", list(cuts()))
def test_an_answer_with_tags(pieces: tuple[str, ...]) -> None:
    """Its chunks, texts, usage and next turn, and the events as they were received."""
    client, _, _ = client_of(Reply(said(*pieces)), think_tags=True)
    stream = client.stream("Hi")
    events = list(stream.events())
    chunks = [one for event in events for one in event.chunks]
    result = stream.result()
    expected = "Hm. Let me see.", "Yes. A <think> is a tag."
    for kind, text in zip(("thinking", "text"), expected, strict=True):
        assert "".join(one.text for one in chunks if one.type == kind) == text
    assert (result.thinking, result.text) == expected == (stream.thinking, stream.text)
    assert result.to_messages() == [{"role": "assistant", "content": expected[1]}]
    assert result.items[0]["content"] == expected[1]
    assert (result.usage.output_tokens, result.finish) == (9, "stop")
    raw = [json.loads(event.raw) for event in events if event.raw != b"[DONE]"]
    sent = [choice["delta"].get("content") or "" for one in raw for choice in one["choices"]]
    assert "".join(sent) == THOUGHT


@every("name", sorted(PROFILES))
def test_the_profile_says_whether_tags_are_thinking(name: str) -> None:
    """Servers of local models; the client's own word wins in both directions."""
    steps = said("<think>Hm.</think>", "Yes.")
    local = name in LOCAL
    split_off, kept = ("Hm.", "Yes."), ("", "<think>Hm.</think>Yes.")
    for tags, is_split in ((None, local), (True, True), (False, False)):
        result = answer(steps, profile=name, think_tags=tags)
        assert (result.thinking, result.text) == (split_off if is_split else kept)
    result = answer(said("Hm.", "</think>", "Yes."), profile=name, think_tags="open")
    assert (result.thinking, result.text) == split_off


def test_text_after_the_thinking_arrives_at_once() -> None:
    """Nothing is held back that cannot be a part of a tag."""
    client, _, _ = client_of(
        Reply(said("<think>", "a", "b <", "c", "</think>", "x", "<")), think_tags=True
    )
    chunks = [(one.type, one.text) for one in client.stream("Hi").chunks()]
    assert chunks == [
        *(("thinking", text) for text in ("a", "b", " <c")),
        *(("text", text) for text in ("x", "<")),
    ]


def test_a_tag_is_the_first_token() -> None:
    """Although nothing of it is shown: the model is at work."""
    first, *rest = said("<think>", "Hm.", "</think>Yes.")[1:]
    client, _, _ = client_of(Reply([Pause(1.0), first, Pause(2.0), *rest]), think_tags=True)
    result = client.stream("Hi").result()
    assert result.timings.first_token_ms == pytest.approx(1000)


@every("finish", ["stop", "length"])
def test_what_is_not_closed_is_thinking(finish: str) -> None:
    """To its end, what might have become a tag too; there is no turn without text."""
    steps = [
        chunk({"content": "<think>Hm"}),
        chunk({"content": ". </thi"}),
        chunk({}, finish),
        DONE,
    ]
    result = answer(steps, think_tags=True)
    assert (result.thinking, result.text, result.finish) == ("Hm. </thi", "", finish)
    assert result.to_messages() == []


@every(
    "ends", [[chunk({}, "stop"), DONE], [chunk({}, "stop")], [chunk({"content": ""}, "stop"), DONE]]
)
def test_what_might_have_been_a_tag_is_not_lost(ends: list[bytes]) -> None:
    """An answer that is `<`: it is a chunk, too."""
    client, _, _ = client_of(Reply([chunk({"content": "<"}), *ends]), think_tags=True)
    stream = client.stream("Hi")
    assert "".join(one.text for one in stream.chunks()) == "<"
    assert stream.result().to_messages() == [{"role": "assistant", "content": "<"}]


def test_a_cut_answer_has_what_was_held_back() -> None:
    """In `.partial`."""
    client, _, _ = client_of(Reply([chunk({"content": "<think>Hm. </th"}), Cut()]), think_tags=True)
    with pytest.raises(LLMStreamError) as raised:
        client.stream("Hi").result()
    assert (raised.value.partial.thinking, raised.value.partial.text) == ("Hm. </th", "")


@every("field", ["reasoning_content", "reasoning"])
@every("tags", [True, "open"])
def test_a_server_that_splits_by_itself(field: str, tags: Any) -> None:
    """Its text is text, tags and all."""
    steps = [chunk({field: "Hm."}), *said("<think>", "Yes.")[1:]]
    result = answer(steps, think_tags=tags)
    assert (result.thinking, result.text) == ("Hm.", "<think>Yes.")
    whole = {"content": "<think>Yes.", field: "Hm."}
    steps[-3] = (
        b"data: "
        + json.dumps(
            {"choices": [{"index": 0, "delta": {}, "message": whole, "finish_reason": "stop"}]}
        ).encode()
        + b"\n\n"
    )
    result = answer(steps, think_tags=tags)
    assert (result.thinking, result.text) == ("Hm.", "<think>Yes.")


@every("streamed", [0, 4, 9, 14, len("<think>Hm.</think>Yes")])
def test_a_whole_message_after_its_pieces(streamed: int) -> None:
    """Some gateways repeat the answer in its last chunk: it is split in the same way."""
    text = "<think>Hm.</think>Yes."
    message = {"role": "assistant", "content": text}
    last = {"index": 0, "delta": {}, "message": message, "finish_reason": "stop"}
    steps = [chunk({"content": text[:streamed]})] if streamed else []
    steps += [f"data: {json.dumps({'choices': [last]})}\n\n".encode(), DONE]
    result = answer(steps, think_tags=True)
    assert (result.thinking, result.text) == ("Hm.", "Yes.")


def test_an_answer_that_is_not_streamed() -> None:
    """One JSON document."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": THOUGHT}}
    result = answer([json.dumps({"choices": [choice]}).encode()], think_tags=True)
    assert (result.thinking, result.text) == ("Hm. Let me see.", "Yes. A <think> is a tag.")


def test_each_choice_has_its_own_thinking() -> None:
    """Two answers at a time, cut into each other."""

    def of(index: int, text: str, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
        return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()

    steps = [
        *(of(0, "<thi"), of(1, "<"), of(0, "nk>a</"), of(1, "think>b</think>B")),
        *(of(0, "think>A", "stop"), of(1, "", "stop"), DONE),
    ]
    client, _, _ = client_of(Reply(steps), think_tags=True)
    stream = client.stream("Hi", extra_body={"n": 2})
    chunks = [(one.index, one.type, one.text) for one in stream.chunks()]
    assert sorted(chunks) == [
        *((0, "text", "A"), (0, "thinking", "a")),
        *((1, "text", "B"), (1, "thinking", "b")),
    ]
    assert (stream.result().thinking, stream.result().text) == ("a", "A")


def test_calls_after_the_thinking() -> None:
    """They are calls; what is sent back has them without the thinking."""
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    steps = [
        chunk({"content": "<think>Hm.\n"}),
        chunk({"content": "</think>\n\n"}),
        chunk({"tool_calls": [call]}),
        chunk({}, "tool_calls"),
        DONE,
    ]
    result = answer(steps, think_tags=True)
    assert [call.name for call in result.tool_calls] == ["f"]
    assert (result.thinking, result.text) == ("Hm.", "")
    (turn,) = result.to_messages()
    assert turn["content"] is None
    assert len(turn["tool_calls"]) == 1


# ---- after a cut -------------------------------------------------------------------------------


@every("at", range(1, 9))
def test_restart_begins_anew(at: int) -> None:
    """With the tags, wherever the first answer was cut."""
    steps = said("<th", "ink>", "Hm.", "</", "think>", "\n", "Yes.")
    client, _, _ = client_of(
        Reply([*steps[:at], Cut()]), Reply(steps), think_tags=True, retry=AT_ONCE
    )
    result = client.stream("Hi", on_disconnect="restart").result()
    assert (result.thinking, result.text) == ("Hm.", "Yes.")


def test_continue_quotes_the_text_alone() -> None:
    """The thinking is not sent back; that of the second answer is thinking again."""
    first = said("<think>Hm.</think>", "One two three four ")[:3]
    client, transport, _ = client_of(
        Reply([*first, Cut()]),
        Reply(said("<think>More.</think>", "five")),
        think_tags=True,
        retry=AT_ONCE,
    )
    result = client.stream("Hi", on_disconnect="continue").result()
    assert result.text == "One two three four five"
    assert result.thinking == "Hm.More."
    sent = json.dumps(transport.requests[1].json())
    assert "One two three four" in sent
    assert "Hm." not in sent


def test_a_conversation_goes_on_without_the_thinking() -> None:
    """The next prompt has the text."""
    client, transport, _ = client_of(Reply(said(THOUGHT)), Reply(said("Ok.")), profile="vllm")
    turns = [{"role": "user", "content": "Hi"}]
    turns += client.stream(turns).result().to_messages()
    client.stream([*turns, {"role": "user", "content": "Go on"}]).result()
    assert "Let me see" not in json.dumps(transport.requests[1].json())


def test_an_answer_with_a_type_is_the_text() -> None:
    """Between the tags may be braces, too."""
    client, _, _ = client_of(Reply(said('<think>{"a": 1}</think>', '{"a": 2}')), think_tags=True)
    assert client.stream("Hi", output=dict[str, int]).result().value == {"a": 2}


# ---- what is refused ---------------------------------------------------------------------------


@every("tags", ["", "closed", 1, "True", ["<think>"]])
def test_what_is_no_choice_is_refused(tags: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"think_tags=.*'open'"):
        Client("chat", base_url="http://t", think_tags=tags)


@every("api", ["responses", "messages", "gemini"])
def test_other_apis_have_no_tags(api: str) -> None:
    """Asked for, it is an error; a profile that has it does not matter."""
    with pytest.raises(ConfigurationError, match="Chat Completions"):
        Client(api, base_url="http://t", think_tags=True)
    assert Client(api, base_url="http://t", profile="vllm").profile == "vllm"
    assert Client(api, base_url="http://t", think_tags=False).settings.think_tags is False
