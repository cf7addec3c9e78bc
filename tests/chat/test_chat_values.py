"""A conversation without a terminal: what is typed, attached, sent and saved."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from every import every
from hypothesis import given
from hypothesis import strategies as st

from llmstream import Client, ConfigurationError
from llmstream._core.dialects import APIS
from llmstream.chat import (
    Assembler,
    Command,
    Conversation,
    Message,
    Origin,
    Tally,
    content_of,
    decode,
    encode,
    file_of,
    parse,
    split_names,
)
from llmstream.chat.conversation import kept_turn
from llmstream.result import Attempt, Result, ToolCall, Usage
from llmstream.testing import Answer, FakeTransport

HERE = Origin("responses", "api.example", "m")
PNG = b"\x89PNG\r\n\x1a\n1234"


def typed(*lines: str) -> Message | None:
    assembler = Assembler()
    return [assembler.feed(line) for line in lines][-1]


def line(text: str) -> Message:
    return Message(((text, True),))


def test_lines_become_messages() -> None:
    """One line; a backslash at the end, unless there are two; a block; a paste."""
    assert typed("hi") == line("hi")
    assert typed("a\\", "b") == Message((("a", True), ("b", True)))
    assert typed("a \\\\") == line("a \\\\")
    assert typed("") is None
    assert typed('"""', "@a", "", 'b"""') == Message((("@a\n\nb", False),))
    assert typed('"""one"""') == Message((("one", False),))
    assert typed("@a\n/exit") == Message((("@a\n/exit", False),))
    assert typed("a\\\nb") == Message((("a", True), ("b", True)))  # of the history


def test_a_paste_is_a_paste_also_with_a_line_end_around_it() -> None:
    """No command of it runs, and no file is attached."""
    for text in ("/exit\n", "@/etc/passwd\n", "\n@/etc/passwd\nx\n", "\n/exit"):
        assert typed(text) == Message(((text.strip("\n"), False),))


@given(st.lists(st.text(alphabet='a\\"/@ \n'), max_size=6))
def test_no_line_is_lost_or_raises(lines: list[str]) -> None:
    """Every letter that is typed, but for the marks, is in a message."""
    assembler = Assembler()
    messages = [assembler.feed(one) for one in lines]
    messages.append(assembler.end())
    texts = "".join(message.text for message in messages if message is not None)
    assert texts.count("a") == "".join(lines).count("a")


def test_commands() -> None:
    """`/name argument`; `//` is a message; what was pasted is none."""
    assert parse(line("/SAVE my file")) == Command("save", "my file")
    assert parse(line("//etc is a folder")) == line("/etc is a folder")
    assert parse(line("/etc/hosts is what?")) == Command("etc/hosts")
    assert parse(line("/ exit")) == Command("")
    pasted = Message((("/exit\nnow", False),))
    assert parse(pasted) is pasted


def test_names_of_attachments() -> None:
    """At the beginning of a word that a person typed; in quotes with spaces; `@@` is an @."""
    message, names = split_names(line("""see @a.py, @"b c" @my\\ d x@y.z (@no) @@me @ 'e'"""))
    assert message.text == "see a.py, b c my d x@y.z (@no) @me @ 'e'"
    assert names == [("a.py,", "a.py"), ("b c",), ("my d",)]
    assert split_names(Message((("@/etc/passwd\nx", False),)))[1] == []


def test_what_is_sent_of_a_file() -> None:
    """A text in a fence that it cannot close; an image and a PDF as parts."""
    text = file_of("a.md", b"```\nx\n```\n")
    assert content_of("look", [text]) == "look\n\na.md:\n````\n```\nx\n```\n````"
    image = file_of("i.png", PNG)
    assert image.media == "image/png"
    parts: Any = content_of("look", [image])
    assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert parts[1] == {"type": "text", "text": "look"}
    assert file_of("d", b"%PDF-1.7").media == "application/pdf"
    assert file_of("u", "é".encode("utf-16")).text == "é"


@pytest.mark.parametrize("data", [b"", b"\x00\x01", b"\xff\xfe\x00", b"x" * 1_000_001])
def test_files_that_no_model_reads(data: bytes) -> None:
    """Empty, binary, too long: a sentence with the name."""
    with pytest.raises(ConfigurationError, match=r"^f\.x "):
        file_of("f.x", data)


def a_conversation() -> Conversation:
    made = Conversation("be brief")
    made.ask("one")
    made.answer("1", ({"type": "reasoning", "id": "r", "encrypted_content": "s"},), HERE)
    made.ask(content_of("two", [file_of("i.png", PNG)]))
    made.answer("2", (), HERE)
    made.ask("three")
    return made


def test_the_form_of_the_api_is_for_its_own_service() -> None:
    """Signatures go back to who made them; another model or host is sent the text, and no question
    whose answer it cannot be sent."""
    made = a_conversation()
    assert made.prompt(HERE)[1]["encrypted_content"] == "s"
    other = made.prompt(Origin("messages", "other", "m"))
    assert [turn["role"] for turn in other] == ["user", "assistant"] * 2 + ["user"]
    assert other[1] == {"role": "assistant", "content": "1"}
    made.exchanges[0] = msgspec.structs.replace(made.exchanges[0], text=" ")
    assert len(made.prompt(Origin())) == 3


def test_an_answer_is_replaced_once_there_is_another_one() -> None:
    """A retry that fails leaves the old answer; a new question forgets the failed one."""
    made = Conversation()
    made.ask("one")
    made.answer("1", (), HERE)
    made.ask("one", again=True)
    assert made.prompt(HERE) == [{"role": "user", "content": "one"}]
    made.ask("one", again=True)  # the retry has failed
    assert len(made.exchanges) == 1
    made.answer("2", (), HERE)
    assert [one.text for one in made.exchanges] == ["2"]
    made.ask("lost")
    made.ask("lost", again=True)  # it had no answer: nothing is replaced
    assert len(made.prompt(HERE)) == 3
    made.ask("two")
    assert made.prompt(HERE)[-1] == {"role": "user", "content": "two"}
    assert len(made.prompt(HERE)) == 3


def test_a_call_of_a_tool_is_answered() -> None:
    """An API refuses a call without an output."""
    call = {"role": "assistant", "tool_calls": []}
    result = Result(turn=(call,), tool_calls=(ToolCall("c1", "f", "{}"),))
    assert kept_turn(result, "")[1]["tool_call_id"] == "c1"
    custom = Result(text="x", turn=(call,), tool_calls=(ToolCall("c1", "f", "x", custom=True),))
    assert kept_turn(custom, "x") == ()


# who answered -> whether a chat with "m" at HERE goes on with the model "m2"
FITS: dict[str, tuple[list[Origin], bool]] = {
    "nobody": ([], True),
    "nobody who is known": ([Origin()], True),
    "another model of this service": ([Origin("responses", "api.example", "m1")], True),
    "the model of this chat": ([HERE], True),
    "this model of another service": ([Origin("responses", "there", "m2")], False),
    "another API of this host": ([Origin("chat", "api.example", "m2")], False),
    "another service": ([Origin("responses", "there", "m1")], False),
    "both": ([Origin("responses", "there", "m1"), Origin("responses", "api.example", "m2")], True),
    "both, and m2 elsewhere": ([HERE, Origin("responses", "there", "m2")], False),
}


@every("case", FITS)
def test_whether_a_model_fits(case: str) -> None:
    """A service that is known to be another one would not know the model."""
    origins, fits = FITS[case]
    made = Conversation()
    for origin in origins:
        made.ask("q")
        made.answer("a", (), origin)
    assert made.fits("m2", HERE) is fits


def test_a_saved_conversation_is_read_back_exactly() -> None:
    """With images, signatures, the open question, and what a retry would replace."""
    made = a_conversation()
    made.drop_open()
    made.ask("again", again=True)
    data = encode(made, "m")
    again, model = decode(data, "f")
    assert (again, model) == (made, "m")
    assert encode(again, model) == data


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(encode(a_conversation(), "m")), **fields}).encode()


HOSTILE = {
    "nothing": b"",
    "no JSON": b"\x89PNG",
    "other JSON": b'{"messages": []}',
    "a list": b"[1]",
    "deep": b"[" * 100_000,
    "no text": b'{"format": "llmstream chat", "version": 1, "exchanges": "\xff"}',
    "another version": changed(version=0),
    "an unknown field": changed(key="sk-x"),
    "a system turn": changed(
        exchanges=[{"question": "q", "text": "t", "turn": [{"role": "system", "content": "x"}]}]
    ),
    "an address": changed(
        unanswered=[{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]
    ),
    "a number": changed(unanswered=1),
    "half a character": changed(
        exchanges=[{"question": "q", "text": "t", "turn": [{"x": "\ud800"}]}]
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_foreign_files_are_refused_in_a_sentence(case: str) -> None:
    """Whatever is in them, and nothing of it is in the sentence."""
    with pytest.raises(ConfigurationError) as caught:
        decode(HOSTILE[case], "f.json")
    assert str(caught.value) == "f.json is not a conversation that /save has written"


def test_a_newer_file_says_so() -> None:
    """The way out is another one."""
    with pytest.raises(ConfigurationError, match="newer version"):
        decode(changed(version=2), "f.json")


def test_the_tally_says_what_is_not_known() -> None:
    """An answer that reported nothing makes the sums lower bounds."""
    tally = Tally()
    usage = Usage(input_tokens=12, output_tokens=34)
    whole = Result("x", finish="stop", attempts=(Attempt(1, 0.0, "done", usage=usage, status=200),))
    tally.add(whole, False, None)
    assert tally.sentence() == "1 answer, 12 tokens in, 34 tokens out"
    tally.add(Result("x", attempts=(Attempt(1, 0.0, "body", status=200),)), False, None)
    assert tally.sentence() == "2 answers, at least 12 tokens in, at least 34 tokens out"
    assert tally.costs() == []


@every("api", APIS)
def test_an_answer_of_each_api_is_saved(api: str) -> None:
    """In its own form, with what the service wants back, and with a call that this chat has not
    run; a file of it is read back, and goes on with any API."""
    answer = Answer("one two", thinking="hm", tool_calls=[("f", '{"a": 1}')])
    client = Client(api, transport=FakeTransport(answer), model="m", api_key="k")
    result = client.stream("Hi").result()
    turn = kept_turn(result, "one two")
    assert turn
    conversation = Conversation("Be kind.")
    conversation.ask("Hi")
    origin = Origin(api, "host", "m")
    conversation.answer("one two", turn, origin)
    again, model = decode(encode(conversation, "m"), "f")
    assert (again, model) == (conversation, "m")
    again.ask("And?")
    transport = FakeTransport(Answer("ok"))
    client = Client(api, transport=transport, model="m", api_key="k")
    assert client.stream(again.prompt(origin)).result().text == "ok"
    assert b"This chat runs no tools." in transport.requests[0].body
    elsewhere = again.prompt(Origin(api, "another", "m"))
    assert [one["content"] for one in elsewhere] == ["Hi", "one two", "And?"]
