"""`stream(output=T)`: what is asked for on each API, the value, and the three errors."""

from __future__ import annotations

import enum
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from every import every
from support import Reading, eventually

from llmstream import (
    Cancelled,
    Client,
    ConfigurationError,
    InvalidRequestError,
    OutputCut,
    OutputError,
    OutputInvalid,
    OutputRefused,
    RetryPolicy,
    StreamInterrupted,
)
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, LLMServer, Reply, Silence

APIS = ("responses", "messages", "chat", "gemini")


class Person(msgspec.Struct):
    name: str
    age: int = 0


class Circle(msgspec.Struct, tag=True):
    radius: float


class Square(msgspec.Struct, tag=True):
    side: float


@dataclass
class Point:
    x: int
    y: int


class Row(TypedDict):
    title: str


class Pair(NamedTuple):
    left: int
    right: str


class Color(enum.Enum):
    RED = "red"


ANN = '{"name": "Ann", "age": 30}'


def client_of(api: str, *replies: Any, **settings: Any) -> Client:
    return Client(
        api, base_url="http://test", model="m", transport=FakeTransport(*replies), **settings
    )


def requests_of(client: Client) -> list[Any]:
    transport: Any = client._endpoint.transport
    return [one.json() for one in transport.requests]


# --- values -------------------------------------------------------------------------------------

VALUES: list[tuple[Any, str, Any]] = [
    (Person, ANN, Person("Ann", 30)),
    (Person, '{"name": "Ann"}', Person("Ann", 0)),
    (Person, '{"name": "Ann", "age": null}', Person("Ann", 0)),  # as strict mode writes it
    (Point, '{"x": 1, "y": 2}', Point(1, 2)),
    (Row, '{"title": "A"}', {"title": "A"}),
    (list[Person], f'{{"elements": [{ANN}]}}', [Person("Ann", 30)]),
    (list[int], '{"elements": []}', []),
    (tuple[int, ...], '{"elements": [1]}', (1,)),
    (set[str], '{"elements": ["a", "a"]}', {"a"}),
    (Annotated[list[int], msgspec.Meta(max_length=2)], '{"elements": [1]}', [1]),
    (Circle | Square, '{"value": {"type": "Square", "side": 2}}', Square(2.0)),
    (Person | None, '{"value": null}', None),
    (Pair, '{"value": [1, "a"]}', Pair(1, "a")),
    (dict[str, int], '{"value": {"a": 1}}', {"a": 1}),
    (int, '{"value": 7}', 7),
    (str, '{"value": "a\\"b"}', 'a"b'),
    (bool, '{"value": false}', False),
    (Color, '{"value": "red"}', Color.RED),
    (Literal["a", "b"], '{"value": "b"}', "b"),
    (float, '{"value": 1}', 1.0),
    # What a model answers that is not held to the schema: the value without the object around it.
    (list[int], "[1, 2]", [1, 2]),
    (int, "42", 42),
    (Circle | Square, '{"type": "Circle", "radius": 1}', Circle(1.0)),
    (dict[str, int], '{"a": 1}', {"a": 1}),
]


@every(("kind", "text", "value"), VALUES)
@pytest.mark.parametrize("api", APIS)
def test_the_value_is_of_the_type(api: str, kind: Any, text: str, value: Any) -> None:
    """On each API, from the root object that is asked for, or from the bare value."""
    found = client_of(api, Answer(text)).stream("Hi", output=kind).result().value
    assert found == value
    assert type(found) is type(value)


def test_pydantic_models_are_types() -> None:
    """Where the caller has imported pydantic."""
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str

    client = client_of("chat", Answer('{"name": "A"}'), Answer('{"elements": [{"name": 1}]}'))
    assert client.stream("Hi", output=Model).result().value == Model(name="A")
    with pytest.raises(OutputInvalid, match=r"string - at `\$\[0\]\.name`"):
        client.stream("Hi", output=list[Model]).result()


AROUND = [
    "\ufeff{}",
    " \n{}\n ",
    "```json\n{}\n```",
    "```\n{}\n```\n",
    "Here is the person:\n\n```json\n{}\n```\n\nAnything else?",
    "Sure! {} I hope it helps.",
    "A set like {{1, 2}} is no JSON, nor is {{name}}: {}",
    '<think>Perhaps {{"name": "Bob", "age": 1}}?</think>\n{}',
    "{}{}",  # twice the same: a real answer of gpt-4o had it
]


@every("around", AROUND)
def test_a_model_may_talk_around_the_value(around: str) -> None:
    """A BOM, fences, sentences, thinking that the server has not separated."""
    text = around.format(ANN, ANN)
    client = client_of("chat", Answer(text))
    assert client.stream("Hi", output=Person).result().value == Person("Ann", 30)


def test_without_output_there_is_no_value() -> None:
    """And nothing about a structure in the request."""
    client = client_of("chat", Answer(ANN))
    assert client.stream("Hi").result().value is None
    assert "response_format" not in requests_of(client)[0]


def test_an_answer_that_calls_tools_has_no_value_yet() -> None:
    """The value is asked of the last turn; the text before a call is not it."""
    client = client_of("messages", Answer("Let me look.", tool_calls=[("look", "{}")]))
    result = client.stream("Hi", output=Person, tools=[{"name": "look", "input_schema": {}}])
    assert result.result().value is None
    assert result.result().tool_calls


def test_a_result_with_a_value_pickles() -> None:
    """And shows it."""
    result = client_of("chat", Answer(ANN)).stream("Hi", output=Person).result()
    assert pickle.loads(pickle.dumps(result)).value == Person("Ann", 30)
    assert "value=Person(name='Ann', age=30)" in repr(result)


def test_batches_take_a_type() -> None:
    """As every option of a call."""
    client = client_of("chat", *[Answer(ANN)] * 3)
    batch = client.parallel(["a", "b", "c"], max_workers=1, output=Person)
    assert [one.value.name for one in batch.results()] == ["Ann"] * 3


# --- what is asked for --------------------------------------------------------------------------


def asked(api: str, profile: str | None = None, **options: Any) -> Any:
    client = client_of(api, Answer(ANN), profile=profile)
    client.stream("Hi", **{"output": Person, **options}).result()
    return requests_of(client)[0]


def test_responses_asks_by_text_format() -> None:
    """Strict, with all properties required."""
    body = asked("responses", extra_body={"text": {"verbosity": "low"}})
    assert body["text"]["verbosity"] == "low"
    wanted = body["text"]["format"]
    assert (wanted["type"], wanted["name"], wanted["strict"]) == ("json_schema", "Person", True)
    assert wanted["schema"]["required"] == ["name", "age"]
    assert wanted["schema"]["additionalProperties"] is False


def test_messages_asks_by_output_config() -> None:
    """Beside the effort of thinking."""
    body = asked("messages", thinking="low", model="claude-opus-4-6")
    assert body["output_config"]["effort"] == "low"
    assert body["output_config"]["format"]["type"] == "json_schema"
    assert body["output_config"]["format"]["schema"]["required"] == ["name"]


def test_chat_asks_by_response_format() -> None:
    """With a name."""
    wanted = asked("chat")["response_format"]
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["name"] == "Person"
    assert wanted["json_schema"]["strict"] is True


def test_gemini_asks_by_a_response_schema() -> None:
    """Beside the other fields of its `generationConfig`, whose spelling may be the older one."""
    seed = {"generation_config": {"seed": 7}}
    config = asked("gemini", temperature=0.5, extra_body=seed)["generationConfig"]
    assert (config["temperature"], config["seed"]) == (0.5, 7)
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"]["required"] == ["name"]
    assert config["responseJsonSchema"]["additionalProperties"] is False


def test_what_cannot_be_strict_is_not_said_to_be() -> None:
    """A dict with any names, say."""
    client = client_of("chat", Answer('{"value": {"a": 1}}'))
    client.stream("Hi", output=dict[str, int]).result()
    assert requests_of(client)[0]["response_format"]["json_schema"]["strict"] is False


def test_a_profile_may_know_json_only() -> None:
    """Then the schema goes into the instructions; or into the system turn that the prompt has."""
    body = asked("chat", "deepseek")
    assert body["response_format"] == {"type": "json_object"}
    assert '"name":{"type":"string"}' in body["messages"][0]["content"]
    assert "JSON" in body["messages"][0]["content"]
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    client = client_of("chat", Answer(ANN), profile="deepseek")
    client.stream(own, output=Person).result()
    turns = requests_of(client)[0]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert turns[0]["content"].startswith("Be brief.\n\nAnswer with one JSON object")
    assert own[0]["content"] == "Be brief."


@every("api", ("responses", "messages", "chat"))
def test_a_profile_may_need_all_of_it(api: str) -> None:
    """llama.cpp knows another way on each of its APIs, and passes over the others in silence."""
    body = asked(api, "llama.cpp")
    assert body["json_schema"]["required"][0] == "name"
    assert {"response_format", "text", "output_config"} & {*body}
    assert "JSON Schema" in json.dumps(body)


@every("api", APIS)
def test_the_caller_may_know_that_a_server_knows_less(api: str) -> None:
    """A format of type "json_object" or "text" in extra_body decides it."""
    words = {
        "responses": lambda kind: {"text": {"format": {"type": kind}}},
        "messages": lambda kind: {"output_config": {"format": {"type": kind}}},
        "chat": lambda kind: {"response_format": {"type": kind}},
        "gemini": lambda kind: {"generationConfig": {"responseMimeType": kind}},
    }[api]
    known = {"gemini": ("application/json", "text/plain")}
    for kind in known.get(api, ("json_object", "text")):
        body = json.dumps(asked(api, extra_body=words(kind)))
        assert "json_schema" not in body
        assert "JsonSchema" not in body
        assert kind in body
        assert "JSON Schema" in body
    own = {"generationConfig": {"responseJsonSchema": {"type": "object"}}}
    with pytest.raises(ConfigurationError, match="leave one of them out"):
        asked(api, extra_body=own if api == "gemini" else words("json_schema"))


REFUSED = [
    "This model does not support response format `json_schema`.",
    "This response_format type is unavailable now",
    "output_config.format: Extra inputs are not permitted",
    "Invalid parameter: 'text.format' of type 'json_schema' is not supported with this model.",
]


@every("api", APIS)
def test_a_service_that_refuses_schemas_is_asked_for_less(api: str) -> None:
    """At once, and visible as an attempt; the value is checked all the same."""
    for words in REFUSED:
        refusal = Reply.error(400, message=words)
        client = client_of(api, refusal, Answer(f"```json\n{ANN}\n```"), clock=FakeClock())
        result = client.stream("Hi", output=Person).result()
        assert result.value == Person("Ann", 30)
        assert [one.status for one in result.attempts] == [400, 200]
        body = json.dumps(requests_of(client)[1])
        assert "JSON Schema" in body
        assert "json_schema" not in body
        assert "JsonSchema" not in body
        client = client_of(api, *[refusal] * 4, Answer("no"))
        with pytest.raises(InvalidRequestError):
            client.stream("Hi", output=Person).result()
        assert len(requests_of(client)) == (2 if api == "messages" else 3)


@every(
    "words",
    [
        "JSON mode is not enabled for models/gemma-3-27b-it",
        "Function calling with a response mime type: 'application/json' is unsupported",
        "The specified schema produces a constraint that has too many states for serving.",
        "Invalid JSON payload received. Unknown name \"responseJsonSchema\" at 'generation_config'",
        "A schema in GenerationConfig in the request exceeds the maximum allowed nesting depth.",
    ],
)
def test_the_words_of_gemini_for_that(words: str) -> None:
    """It may take two requests to find what the model takes."""
    client = client_of("gemini", *[Reply.error(400, message=words)] * 2, Answer(ANN))
    assert client.stream("Hi", output=Person).result().value == Person("Ann", 30)
    bodies = [json.dumps(one) for one in requests_of(client)]
    assert "responseJsonSchema" in bodies[0]
    assert "JSON Schema" in bodies[-1]
    assert "generationConfig" not in bodies[-1]


def test_a_service_that_refuses_this_schema_is_asked_without_strictness() -> None:
    """It knows schemas."""
    words = "Invalid schema for response_format 'Person': the schema is too complex."
    client = client_of("chat", Reply.error(400, message=words), Answer(ANN))
    assert client.stream("Hi", output=Person).result().value == Person("Ann", 30)
    wanted = requests_of(client)[1]["response_format"]["json_schema"]
    assert wanted["strict"] is False
    assert wanted["schema"]["required"] == ["name"]


def test_another_refusal_is_raised() -> None:
    """Nothing less is asked for where the model is not known."""
    client = client_of("chat", Reply.error(404, message="The model does not exist"))
    with pytest.raises(InvalidRequestError):
        client.stream("Hi", output=Person).result()
    assert len(requests_of(client)) == 1


def test_instructions_stay_before_the_schema() -> None:
    """They are the caller's."""
    body = asked(
        "responses", instructions="Be kind.", extra_body={"text": {"format": {"type": "text"}}}
    )
    assert body["instructions"].startswith("Be kind.\n\nAnswer with one JSON object")


@every(
    "options",
    [
        {"output": "Person"},
        {"output": {"type": "object"}},
        {"output": 5},
        {"output": object},
        {"output": Callable[[], int]},
        {"output_retries": 1},
        {"output": Person, "output_retries": -1},
        {"output": Person, "output_retries": True},
        {"output": Person, "output_retries": 11},
        {"output": Person, "on_disconnect": "continue"},
        {"output": Person, "extra_body": {"grammar": "root ::= x"}},
    ],
)
def test_what_cannot_work_is_refused_at_once(options: Any) -> None:
    """With what to do, and before anything is sent."""
    client = client_of("chat")
    with pytest.raises(ConfigurationError):
        client.stream("Hi", **options)


# --- three errors -------------------------------------------------------------------------------


@every("api", APIS)
def test_a_refusal_is_an_error_of_its_own(api: str) -> None:
    """Whether the model says it in its own part, or a filter ends the answer."""
    refusals = [Answer(text="I cannot", finish="content_filter")]
    if api in ("responses", "chat"):  # the others have no such part
        refusals.append(Answer(refusal="I cannot"))
    for answer in refusals:
        with pytest.raises(OutputRefused) as caught:
            client_of(api, answer).stream("Hi", output=Person).result()
        assert "cannot" in caught.value.partial.text + caught.value.partial.refusal
        assert caught.value.partial.value is None


@every("api", APIS)
def test_a_cut_answer_is_an_error_of_its_own(api: str) -> None:
    """Also where the JSON happens to be whole: the service says that it was cut."""
    for text in (ANN[:9], ANN):
        with pytest.raises(OutputCut) as caught:
            client_of(api, Answer(text, finish="length")).stream("Hi", output=Person).result()
        assert caught.value.partial.text == text
        assert caught.value.attempts[0].status == 200


INVALID = [
    ('{"name": 5}', "Expected `str`, got `int`", "$.name"),
    ('{"name": "A", "age": "x"}', "Expected `int`, got `str`", "$.age"),
    ('{"age": 1}', "missing required field `name`", None),
    ('{"name": "A",}', "malformed", None),
    ('{"name": "A"', "malformed", None),
    ('{"name": NaN}', "malformed", None),
    ('{"name": "\\ud83d"}', "malformed", None),
    ('{"name": "A", "age": 1e999}', "out of range|Expected", "$.age"),
    ("Hello", "it has no JSON", None),
    ("", "it has no text", None),
    ("[" * 100_000, "nested too deeply|no JSON|malformed", None),
    ('{"a":' * 100_000, "nested too deeply|malformed", None),
    ('{"name": "A"} or {"name": "B"}', "several values", None),
]


@pytest.mark.slow
@every(("text", "why", "path"), INVALID)
@pytest.mark.parametrize("api", APIS)
def test_what_does_not_fit_is_an_error_of_its_own(
    api: str, text: str, why: str, path: str | None
) -> None:
    """With msgspec's path, at the end of iteration and by `result()`, again and again."""
    stream = client_of(api, Answer(text)).stream("Hi", output=Person)
    with pytest.raises(OutputInvalid, match=why) as caught:
        "".join(stream)
    error = caught.value
    assert error.partial.text == text
    assert error.partial.finish == "stop"
    assert (error.path, error.index) == (path, None)
    assert error.trace_id == stream.trace_id
    assert len(error.attempts) == 1
    with pytest.raises(OutputInvalid):
        stream.result()
    again = pickle.loads(pickle.dumps(error))
    assert (again.detail, again.path, str(again)) == (error.detail, error.path, str(error))
    assert not error.retryable


def test_the_value_of_a_list_has_a_path_in_the_list() -> None:
    """Not in the object around it."""
    text = f'{{"elements": [{ANN}, {{"name": 1}}]}}'
    with pytest.raises(OutputInvalid) as caught:
        client_of("chat", Answer(text)).stream("Hi", output=list[Person]).result()
    assert caught.value.path == "$[1].name"


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    color: Color = Color.RED


@every("text", ['{"color": "hidden \'x\' words"}', '{"hidden `x` words": 1}'])
def test_the_message_has_no_words_of_the_answer(text: str, caplog: Any) -> None:
    """It is written to logs; `detail` and `partial` have them."""
    client = client_of("chat", *[Answer(text)] * 2)
    with pytest.raises(OutputInvalid) as caught:
        client.stream("Hi", output=Closed, output_retries=1).result()
    error = caught.value
    assert "hidden" in error.detail
    assert "hidden" in error.partial.text
    assert "hidden" not in str(error)
    assert "hidden" not in caplog.text
    assert "OutputInvalid" in caplog.text


def test_all_three_have_one_parent() -> None:
    """So that one `except` will do."""
    for kind in (OutputCut, OutputInvalid, OutputRefused):
        assert issubclass(kind, OutputError)


def test_a_method_of_the_type_may_raise_what_it_likes() -> None:
    """What is not a ValueError is the caller's own, and the stream is freed."""

    class Odd(msgspec.Struct):
        name: str

        def __post_init__(self) -> None:
            raise LookupError(self.name)

    stream = client_of("chat", Answer('{"name": "A"}')).stream("Hi", output=Odd)
    with pytest.raises(LookupError):
        stream.result()
    with pytest.raises(Cancelled):
        stream.result()


# --- leaving early ------------------------------------------------------------------------------


def test_a_reader_that_leaves_at_the_last_event_has_the_value() -> None:
    """The answer is whole, though the iteration has not seen its end."""
    stream = client_of("responses", Answer(ANN)).stream("Hi", output=Person)
    with stream:
        for event in stream.events():
            if event.type == "response.completed":
                break
    assert stream.result().value == Person("Ann", 30)
    stream = client_of("responses", Answer("{}")).stream("Hi", output=Person)
    with stream:
        for event in stream.events():
            if event.type == "response.completed":
                break
    with pytest.raises(OutputInvalid):
        stream.result()


def test_a_cancel_wins() -> None:
    """A stream that was cancelled before its end has no value."""
    stream = client_of("chat", Answer(ANN)).stream("Hi", output=Person)
    next(stream)
    stream.cancel("enough")
    with pytest.raises(Cancelled) as caught:
        stream.result()
    assert caught.value.partial.value is None


# --- another answer -----------------------------------------------------------------------------


@every("api", APIS)
def test_another_answer_is_asked_for(api: str) -> None:
    """With the first one and what is wrong with it; the usage is that of both."""
    bad = Answer('{"name": 5}', usage=(10, 3), response_id="resp_1")
    client = client_of(api, bad, Answer(ANN, usage=(20, 4), response_id="resp_2"))
    stream = client.stream("Who?", output=Person, output_retries=1)
    chunks = list(stream.chunks())
    restart = [chunk.type for chunk in chunks].index("restart")
    assert "".join(chunk.text for chunk in chunks[:restart]) == '{"name": 5}'
    assert "".join(chunk.text for chunk in chunks[restart:]) == ANN
    result = stream.result()
    assert result.value == Person("Ann", 30)
    assert result.text == ANN
    assert (result.usage.input_tokens, result.usage.output_tokens) == (30, 7)
    first, second = result.attempts
    assert isinstance(first.error, OutputInvalid)
    assert first.error.partial.text == '{"name": 5}'
    assert second.error is None
    assert [one.usage.output_tokens for one in result.attempts if one.usage] == [3, 4]
    sent = requests_of(client)[1]
    assert "Expected `str`, got `int`" in json.dumps(sent)
    turns = sent[{"responses": "input", "gemini": "contents"}.get(api, "messages")]
    role = "model" if api == "gemini" else "assistant"
    assert [turn.get("role") for turn in turns] == ["user", role, "user"]
    if api == "gemini":  # in parts, as it came
        assert "".join(part["text"] for part in turns[1]["parts"]) == '{"name": 5}'
    else:
        assert '{\\"name\\": 5}' in json.dumps(turns[1])


def test_events_say_that_the_answer_begins_anew() -> None:
    """By a Restarted event, and the text starts over."""
    client = client_of("chat", Answer("no"), Answer(ANN))
    stream = client.stream("Who?", output=Person, output_retries=2)
    types = [event.type for event in stream.events()]
    assert types.count("llmstream.restarted") == 1
    assert stream.text == ANN
    assert stream.may_restart


def test_at_most_so_many_are_asked_for() -> None:
    """Then the last error is raised, with what all have used."""
    client = client_of("chat", Answer("a", usage=(1, 1)), Answer("b", usage=(2, 2)), Answer(ANN))
    with pytest.raises(OutputInvalid) as caught:
        client.stream("Who?", output=Person, output_retries=1).result()
    assert caught.value.partial.text == "b"
    assert caught.value.partial.usage.input_tokens == 3
    assert len(caught.value.attempts) == 2
    assert len(requests_of(client)) == 2


def test_only_invalid_answers_are_asked_for_again() -> None:
    """One that is refused or cut would be again."""
    for answer in (Answer(refusal="No"), Answer(ANN, finish="length")):
        client = client_of("chat", answer, Answer(ANN))
        with pytest.raises(OutputError):
            client.stream("Who?", output=Person, output_retries=3).result()
        assert len(requests_of(client)) == 1


def test_an_empty_answer_is_asked_for_again_in_the_same_turn() -> None:
    """There is no assistant's turn to put between."""
    client = client_of("chat", Answer(""), Answer(ANN))
    assert client.stream("Who?", output=Person, output_retries=1).result().value.name == "Ann"
    (turn,) = requests_of(client)[1]["messages"]
    assert turn["content"].startswith("Who?\n\nYour answer does not fit")


def test_plain_text_could_not_tell() -> None:
    """So it refuses, and says what to use."""
    stream = client_of("chat").stream("Who?", output=Person, output_retries=1)
    with pytest.raises(ConfigurationError, match="chunks"):
        iter(stream)


def test_a_failure_of_the_second_request_is_retried_as_that_of_a_first() -> None:
    """Nothing of its answer has been shown yet; what was shown does not count."""
    clock = FakeClock()
    for policy in ("raise", "restart"):
        replies = (Answer("no"), Reply.error(503), Answer(ANN))
        client = client_of("chat", *replies, clock=clock, retry=RetryPolicy(max_attempts=3))
        stream = client.stream("Who?", output=Person, output_retries=1, on_disconnect=policy)
        types = [chunk.type for chunk in stream.chunks()]
        assert types.count("restart") == 1
        assert stream.result().value == Person("Ann", 30)
        assert [one.status for one in stream.attempts] == [200, 503, 200]
        assert requests_of(client)[1] == requests_of(client)[2]


def test_a_second_answer_that_is_cut_is_raised() -> None:
    """With what of it had arrived, under the default policy."""
    client = client_of("chat", Answer("no"), Reply([*Answer(ANN).blocks("chat")[:3], Cut()]))
    with pytest.raises(StreamInterrupted) as caught:
        client.stream("Who?", output=Person, output_retries=1).result()
    assert ANN.startswith(caught.value.partial.text)


def test_resume_and_another_answer() -> None:
    """A background answer that is cut is resumed, and the second one as well: never the first in
    its place."""
    first, second = Answer("no", response_id="resp_a"), Answer(ANN, response_id="resp_b")
    client = client_of("responses", first, Reply.error(400), clock=FakeClock())
    with pytest.raises(InvalidRequestError):
        client.stream(
            "Who?", output=Person, output_retries=1, background=True, on_disconnect="resume"
        ).result()
    sent: Any = client._endpoint.transport
    assert [one.method for one in sent.requests] == ["POST", "POST"]
    client = client_of("responses", first, second, clock=FakeClock())
    stream = client.stream(
        "Who?", output=Person, output_retries=1, background=True, on_disconnect="resume"
    )
    assert stream.result().value == Person("Ann", 30)


def test_a_cancel_in_the_second_answer(server: LLMServer, client_for: Any) -> None:
    """Over a real connection: both are freed, and the error is the cancel's."""
    server.script(Answer("no"), Reply([*Answer(ANN).blocks("chat")[:3], Silence()]))
    client = client_for(server, api="chat", model="m")
    stream = client.stream("Who?", output=Person, output_retries=1)
    reading = Reading(stream, lambda one: one.result())
    eventually(lambda: stream.text[:1] == "{", "the second answer has begun")
    stream.cancel("enough")
    assert isinstance(reading.ended(), Cancelled)
