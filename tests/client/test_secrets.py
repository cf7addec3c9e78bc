"""A marked key, prompt, instructions, header and answer, through good days and bad ones, with all
observers on: which outputs hold what. Services like to quote what they were sent; here they all do.

The key, the caller's headers, the prompt and the instructions are in no output of any kind: log,
metrics, spans, trace page, records, reprs, messages and attributes of errors, tracebacks with their
locals, what an error reporter sends, pickles. Nor are they in an error's `.partial`, as far as it
is the library that fills it.

The answer is what was asked for. It is in the Result, in `.partial`, and so in a pickled error, in
events and chunks, and in none of the others.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from every import every
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from support import PATIENCE, clocks, cpu_seconds, eventually, failure, python, until_blocked
from test_environment import every_logger, everything_shown  # noqa: F401 (a fixture)
from told import Told

from llmstream import Client, InvalidRequestError, LLMStreamError, RetryPolicy, Stream
from llmstream._core.redact import names_in, prompt_texts, redact_quotes
from llmstream.telemetry.otel import OpenTelemetryObserver
from llmstream.telemetry.prometheus import PrometheusObserver
from llmstream.telemetry.timeline import TimelineObserver
from llmstream.testing import Answer, Cut, LLMServer, Pings, Recorded, Reply, Reset, Silence
from llmstream.testing.answers import ErrorSpec, sse_block
from llmstream.testing.script import prompt_text

APIS = ("responses", "messages", "chat", "gemini")
KEY = "sk-marked-key-4f1d8a2b9c"
PROMPT = "marked-prompt: the launch code of the year is 0-4-7-1"
INSTRUCTIONS = "marked-instructions: answer as a pirate would, and briefly"
HEADER = "marked-header-77aa"
MARKS = ("marked-key", "marked-prompt", "launch code", "marked-instr", "as a pirate", "marked-head")
ANSWERED = "marked-answer"
SAID = f"cannot do '{PROMPT}' ({INSTRUCTIONS}) with Bearer {KEY} and {HEADER}"
AGAIN = RetryPolicy(max_attempts=2, base=0.0, cap=0.0)

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---- what happens ------------------------------------------------------------------------------


def answer_blocks(api: str) -> list[bytes]:
    """An answer's blocks; the Responses API repeats the instructions in its first event."""
    blocks = Answer([f"{ANSWERED} ", "two ", "three ", "four"]).blocks(api)
    said = f'"instructions":{json.dumps(INSTRUCTIONS)}'.encode()
    return [block.replace(b'"instructions":null', said) for block in blocks]


def begun(api: str) -> list[bytes]:
    """Its beginning, up to the third token."""
    blocks = answer_blocks(api)
    return blocks[: next(n for n, block in enumerate(blocks) if b"four" in block)]


def in_stream(code: str) -> bytes:
    error = {"type": code, "code": code, "message": SAID}
    return sse_block("error", {"type": "error", **error, "error": error})


def refused(api: str, status: int, **said: Any) -> Reply:
    headers = said.pop("headers", {})
    body, identity = ErrorSpec(status, **{"message": SAID, **said}).document(api)
    return Reply.json(body, status, headers={**identity, **headers})


# what happens -> the replies of a service, the last as often as it is asked
HAPPENS: dict[str, Callable[[str], list[Any]]] = {
    "a whole answer": lambda api: [Reply(answer_blocks(api))],
    "429, then an answer": lambda api: [refused(api, 429), Reply(answer_blocks(api))],
    "429": lambda api: [refused(api, 429)],
    "429 that asks for too much": lambda api: [refused(api, 429, headers={"retry-after": "999"})],
    "401": lambda api: [refused(api, 401, code="invalid_api_key")],
    "401 that codes the key": lambda api: [refused(api, 401, code=KEY, type=KEY)],
    "400 in plain words": lambda api: [Reply(SAID.encode(), status=400, framing="length")],
    "400 that codes the prompt": lambda api: [refused(api, 400, code=PROMPT, type=PROMPT)],
    "422 in a list": lambda api: [
        Reply.json({"detail": [{"msg": SAID, "input": PROMPT}]}, 422),
    ],
    "500 with a page": lambda api: [Reply.html(f"<h1>Sorry</h1>\n<p>{SAID}</p>", 500)],
    "200 with a page": lambda api: [Reply.html(f"<html><p>{SAID}</p></html>")],
    "200 with other JSON": lambda api: [Reply.json({"you": {"said": SAID}})],
    "200 with an error": lambda api: [Reply.json({"error": {"code": 400, "message": SAID}})],
    "200 with half an answer": lambda api: [
        Reply([f'{{"output": "{ANSWERED}", "instructions": "{INSTRUCTIONS}'.encode(), Cut()])
    ],
    "an error in the stream": lambda api: [Reply([*begun(api), in_stream("server_error")])],
    "an overload in the stream": lambda api: [Reply([in_stream("overloaded_error")])],
    "a garbled event": lambda api: [Reply([*begun(api), f"data: {{{SAID}\n\n".encode()])],
    "a drop": lambda api: [Reply([*begun(api), Cut()])],
    "a reset": lambda api: [Reply([*begun(api), Reset()])],
    "a drop at the beginning": lambda api: [Reply([answer_blocks(api)[0], Cut()])],
    "a truncation": lambda api: [Reply(begun(api))],
    "no answer": lambda api: [Reply(before=[Cut()])],
    "no HTTP": lambda api: [Reply.raw(f"{SAID}\r\n".encode())],
    "no HTTP chunk": lambda api: [
        Reply.raw(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{SAID}\r\n".encode())
    ],
    "no progress": lambda api: [Reply([*begun(api), Silence()])],
    "no first token": lambda api: [Reply([Pings(0.02)])],
    "no headers": lambda api: [Reply(before=[Silence()])],
    "a cancel": lambda api: [Reply([*begun(api), Silence()])],
}
NAMES = tuple(HAPPENS)
HANGS = ("no progress", "no first token", "no headers")


def service(api: str) -> Callable[[Recorded], Reply]:
    """Does what the number at the end of the prompt names; counts the requests for each."""
    asked: dict[int, int] = {}

    def reply(request: Recorded) -> Reply:
        number = int(prompt_text(request).rpartition("#")[2])
        replies = HAPPENS[NAMES[number]](api)
        asked[number] = asked.get(number, 0) + 1
        found: Reply = replies[min(asked[number], len(replies)) - 1]
        return found

    return reply


SETTINGS: dict[str, Any] = {
    "api_key": KEY,
    "model": "m",
    "retry": AGAIN,
    "timeouts": clocks(8.0),
    "headers": {"x-mine": HEADER, "x-gateway-authorization": f"Bearer {HEADER}-for-the-gateway"},
}


def ask(client: Client, number: int) -> Stream:
    prompt = [{"role": "user", "content": f"{PROMPT} #{number}"}]
    limits = clocks(8.0, idle=0.1, first_token=0.1) if NAMES[number] in HANGS else None
    return client.stream(
        prompt,
        instructions=INSTRUCTIONS,
        headers={"x-call": f"{HEADER}-call"},
        timeouts=limits,
    )


def nothing_marked(outputs: dict[str, str], *marks: str) -> None:
    """None of the outputs holds one of the marks."""
    for name, text in outputs.items():
        for mark in marks or (*MARKS, ANSWERED):
            at = text.find(mark)
            shown = text[max(0, at - 300) : at + 100]
            assert at < 0, f"{mark!r} is in {name}: ...{shown}..."


# ---- all that is on ----------------------------------------------------------------------------


class Everything:
    """All observers, and what they would let out."""

    def __init__(self, **otel: Any) -> None:
        self.registry = CollectorRegistry()
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        self.trace = TimelineObserver(calls=100)
        self.told = Told()
        self.observers = [
            PrometheusObserver(self.registry),
            OpenTelemetryObserver(self.tracers, self.meters, **otel),
            self.trace,
            self.told,
        ]

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()

    def spans(self) -> str:
        return "".join(span.to_json() for span in self.exporter.get_finished_spans())

    def outputs(self) -> dict[str, str]:
        """All that leaves the process, and the records."""
        data = self.reader.get_metrics_data()
        records = [*self.told.calls, *self.told.ends, *self.told.attempts]
        records += [retry for (retry,) in self.told.all("retry")]
        return {
            "/metrics": generate_latest(self.registry).decode(),
            "OpenMetrics": generate_openmetrics(self.registry).decode(),
            "the spans": self.spans(),
            "the metrics of OpenTelemetry": data.to_json() if data is not None else "",
            "the trace page": self.trace.html(),
            "the records": repr(records),
            "the records in JSON": msgspec.json.encode(records).decode(),
            "the pickled records": repr(pickle.dumps(records, 0)),
            "reprs of observers": repr([*self.observers, self.exporter, self.reader]),
        }


@pytest.fixture
def everything() -> Iterator[Everything]:
    on = Everything()
    yield on
    on.close()


@contextlib.contextmanager
def clients(server: LLMServer, api: str, observers: Any) -> Iterator[Client]:
    server.default = service(api)
    base_url = server.base_url_for(api)
    with Client(api, base_url=base_url, observers=observers, **SETTINGS) as client:
        yield client


def ended(client: Client, number: int) -> tuple[Stream, LLMStreamError | None]:
    """A call that goes as the table says."""
    stream, name = ask(client, number), NAMES[number]
    if "answer" in name and "half" not in name and not name.startswith("no"):
        assert ANSWERED in stream.result().text
        return stream, None
    if name == "a cancel":
        assert next(stream).startswith(ANSWERED)
        stream.cancel("enough")
    return stream, failure(stream, Stream.result)


def traceback_of(error: BaseException) -> str:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(shown.format(chain=True))


# ---- the proofs --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_no_output_holds_a_mark(
    server: LLMServer,
    everything: Everything,
    every_logger: pytest.LogCaptureFixture,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
    api: str,
) -> None:
    """All loggers at DEBUG, all observers on, everything that can happen: no secret in anything,
    and the answer only in results, `.partial` and what is pickled of it."""
    printed = io.StringIO()
    with clients(server, api, everything.observers) as client:
        for number, name in enumerate(NAMES):
            stream, error = ended(client, number)
            shown = {
                f"{name}: reprs": repr([client, stream, stream.attempts, vars(stream)]),
                f"{name}: text": f"{client} {stream} {stream.attempts}",
                f"{name}: pickled attempts": repr(
                    [pickle.dumps(msgspec.structs.replace(a, error=None)) for a in stream.attempts]
                ),
            }
            for attempt in stream.attempts:
                shown[f"{name}: attempt {attempt.number}"] = repr(attempt) + str(attempt.error)
            if error is not None:
                again = pickle.loads(pickle.dumps(error))
                for form in (error, again):
                    nothing_marked(
                        {f"{name}: all of the error": "".join(everything_shown(form))}, *MARKS
                    )
                    shown[f"{name}: the error"] = f"{form} {form!r} {form.args}"
                    shown[f"{name}: its traceback"] = traceback_of(form)
                traceback.print_exception(error, file=printed)
                logging.getLogger("application").error("failed: %s", error, exc_info=error)
            nothing_marked(shown)
        assert everything.trace.calls == len(everything.told.ends) == len(NAMES)
    records = [vars(record) for record in every_logger.records]
    captured = capfd.readouterr()
    nothing_marked(
        {
            **everything.outputs(),
            "the log": every_logger.text,
            "the log's extra": repr(records),
            "stdout": captured.out,
            "stderr": captured.err,
            "printed tracebacks": printed.getvalue(),
        }
    )
    assert len([r for r in every_logger.records if r.name == "llmstream"]) > 5 * len(NAMES)
    # they were there to be found
    sent = server.requests[0]
    assert PROMPT in sent.body.decode()
    assert INSTRUCTIONS in sent.body.decode()
    assert KEY in str([*sent.headers.values()])
    assert sent.headers["x-mine"] == HEADER
    assert sent.headers["x-call"] == f"{HEADER}-call"


@pytest.mark.parametrize("api", APIS)
def test_the_answer_is_where_it_belongs(server: LLMServer, api: str) -> None:
    """In a Result, in `.partial` of every error behind its beginning, and in their pickles."""
    with clients(server, api, ()) as client:
        for name in ("a drop", "a truncation", "an error in the stream", "no progress", "a cancel"):
            _, error = ended(client, NAMES.index(name))
            assert error is not None
            assert pickle.loads(pickle.dumps(error)).partial.text.startswith(ANSWERED), name
        result = ask(client, 0).result()
        assert pickle.loads(pickle.dumps(result)) == result
        assert result.text.startswith(ANSWERED)
        assert ANSWERED in repr(result)


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_content_goes_out_where_it_is_asked_for(server: LLMServer, api: str) -> None:
    """The one switch: `capture_content=True` puts prompt, instructions and answer on the span;
    never the key or a header, and nothing in the metrics."""
    on = Everything(capture_content=True)
    try:
        with clients(server, api, on.observers) as client:
            for number in range(len(NAMES)):
                ended(client, number)
        spans = json.loads(f"[{on.spans().replace('}{', '},{')}]")
        assert len(spans) == len(NAMES)
        whole = json.dumps(spans[0])
        for wanted in (PROMPT, INSTRUCTIONS, ANSWERED):
            assert wanted in whole
        nothing_marked({"the spans": on.spans()}, "marked-key", "marked-head")
        outputs = on.outputs()
        del outputs["the spans"]
        nothing_marked(outputs)
    finally:
        on.close()


REPORTED = """
    import json, logging, os, sys
    import sentry_sdk
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.transport import Transport
    from llmstream import Client, LLMStreamError, RetryPolicy, Timeouts

    secrets = json.loads(os.environ.pop("SECRETS"))
    kept = []

    class InMemory(Transport):
        def capture_envelope(self, envelope):
            for item in envelope.items:
                said = item.payload.json or item.payload.get_bytes().decode("utf-8", "replace")
                kept.append(said)

    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=InMemory,
        include_local_variables=True,
        include_source_context=False,
        attach_stacktrace=True,
        max_request_body_size="always",
        max_value_length=100_000,
        send_default_pii=True,
        traces_sample_rate=1.0,
        enable_logs=True,
        integrations=[LoggingIntegration(logging.DEBUG, logging.INFO)],
    )
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger().addHandler(logging.NullHandler())

    class Failing:
        def on_content(self, call, request, result):
            raise ValueError("an observer's own mistake")

    client = Client(
        sys.argv[1],
        base_url=sys.argv[2],
        api_key=secrets["key"],
        model="m",
        headers={"x-mine": secrets["header"], "x-auth": "Bearer " + secrets["header"]},
        retry=RetryPolicy(max_attempts=2, base=0.0, cap=0.0),
        timeouts=Timeouts(idle=8, first_token=8),
        observers=[Failing()],
    )
    reading = [
        lambda stream: stream.result(),
        lambda stream: list(stream),
        lambda stream: list(stream.chunks()),
        lambda stream: list(stream.events()),
    ]
    errors, hangs = 0, json.loads(sys.argv[5])
    for number in range(0, int(sys.argv[3]), int(sys.argv[4])):
        prompt = [{"role": "user", "content": secrets["prompt"] + f" #{number}"}]
        with sentry_sdk.start_transaction(name=str(number)):
            soon = Timeouts(idle=0.1, first_token=0.1) if number in hangs else None
            stream = client.stream(prompt, instructions=secrets["instructions"], timeouts=soon)
            try:
                reading[number % 4](stream)
            except LLMStreamError as exc:
                errors += 1
                sentry_sdk.capture_exception(exc)
                logging.exception("failed: %s", exc)
    sentry_sdk.flush()
    print(json.dumps({"errors": errors, "kept": kept}))
"""


def without_the_callers_frames(node: Any) -> Any:
    """The report without the locals of the script's own frames, which hold the prompt by right."""
    if isinstance(node, list):
        return [without_the_callers_frames(one) for one in node]
    if not isinstance(node, dict):
        return node
    own = "vars" in node and node.get("module") in (None, "__main__")
    return {k: without_the_callers_frames(v) for k, v in node.items() if not (own and k == "vars")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("api", "step"),
    [("responses", 3), *(pytest.param(api, 1, marks=pytest.mark.slow) for api in APIS)],
)
def test_what_an_error_reporter_sends(server: LLMServer, api: str, step: int) -> None:
    """sentry-sdk with everything that it can collect: events of each error with the locals of all
    frames, its logging integration from INFO on, breadcrumbs, transactions, logs. (The default
    suite has every third of the days.)"""
    server.default = service(api)
    secrets = {"key": KEY, "prompt": PROMPT, "instructions": INSTRUCTIONS, "header": HEADER}
    hangs = json.dumps([number for number, name in enumerate(NAMES) if name in HANGS])
    arguments = (api, server.base_url_for(api), str(len(NAMES)), str(step), hangs)
    with python(REPORTED, *arguments, SECRETS=json.dumps(secrets)) as process:
        output = process.communicate(timeout=4 * PATIENCE)[0]
    assert process.returncode == 0, output
    report = json.loads(output.splitlines()[-1])
    assert report["errors"] >= len(NAMES[::step]) - 3
    text = json.dumps(report["kept"])
    for part in ('"vars"', '"next_batch"', "RateLimitError", '"breadcrumbs"', "call ended"):
        assert part in text  # it did collect
    nothing_marked({"the report": json.dumps(without_the_callers_frames(report["kept"]))})


@pytest.mark.parametrize("when", ["headers", "body"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_what_a_signal_handler_raises_shows_no_frames_of_the_transport(
    server: LLMServer, when: str, kind: type[BaseException]
) -> None:
    """Ctrl-C, a worker's time limit: an exception may come out of any frame below us, and those of
    requests and urllib3 hold the key and the whole request in their locals."""

    main = threading.main_thread()

    def is_below_us() -> bool:
        frame = sys._current_frames().get(main.ident or 0)
        while frame is not None and frame.f_code.co_name != "next_batch":
            frame = frame.f_back
        return frame is not None

    def send() -> None:
        eventually(lambda: is_below_us() and server.requests, "the request is being waited for")
        until_blocked(main)
        os.kill(os.getpid(), signal.SIGUSR1)

    def raised(*what: Any) -> None:
        raise kind("out of a signal handler")

    def reply(request: Recorded) -> Reply:
        if when == "body":
            return Reply([*begun("responses"), Silence()])
        return Reply(before=[Silence()])

    server.default = reply
    sender = threading.Thread(target=send)
    before = signal.signal(signal.SIGUSR1, raised)
    try:
        with Client(base_url=server.base_url, **{**SETTINGS, "timeouts": clocks()}) as client:
            stream = ask(client, 0)
            if when == "body":
                for _ in range(3):
                    next(stream)
            sender.start()
            with pytest.raises(kind, match="out of a signal handler") as caught:
                stream.result()
            sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    nothing_marked({"the traceback": traceback_of(caught.value)})
    assert "next_batch" in traceback_of(caught.value)


def test_a_failing_observer_is_logged_without_what_it_was_told(
    server: LLMServer,
    every_logger: pytest.LogCaptureFixture,  # noqa: F811
) -> None:
    """Its own frames may hold the answer; the library's do not."""

    class Failing:
        def on_content(self, call: Any, request: Any, result: Any) -> None:
            del request, result
            raise ValueError("an observer's own mistake")

    with clients(server, "responses", [Failing()]) as client:
        ask(client, 0).result()
    (record,) = (r for r in every_logger.records if r.levelno == logging.ERROR)
    assert record.exc_info is not None
    kind, error, frames = record.exc_info
    assert kind is not None
    assert error is not None
    shown = traceback.TracebackException(kind, error, frames, capture_locals=True)
    text = "".join(shown.format())
    assert "an observer's own mistake" in text
    nothing_marked({"the log": every_logger.text, "its traceback": text})


# ---- quotes ------------------------------------------------------------------------------------

LONG = 'In the year 1789 the assembly met.\nIt met "often", in Paris & elsewhere; it was <loud>.'
QUOTES = {
    "whole": LONG,
    "as JSON": json.dumps(LONG),
    "as repr": repr(LONG),
    "on one line": " ".join(LONG.split()),
    "its beginning": LONG[:30],
    "its middle": LONG[11:40],
    "twice": f"{LONG} and {LONG}",
}


@every("quote", QUOTES)
def test_quotes_are_blotted_out(quote: str) -> None:
    """However a service writes it, and wherever it stands; the words around it stay."""
    text = redact_quotes(f"cannot do this: {QUOTES[quote]}, sorry", [LONG])
    assert text.startswith("cannot do this: ")
    assert text.endswith(", sorry")
    assert "***" in text
    for word in ("1789", "assembly", "often", "Paris", "elsewhere"):
        assert word not in text


def test_what_is_no_quote_stays() -> None:
    """Words that a prompt and an error happen to share, short prompts, and none at all."""
    said = "HTTP 400 (invalid_value): 'temperature' has to be between 0 and 2"
    for quoted in ([], [""], ["hi"], ["2"], ["between"], ["What has to be between us?"]):
        assert redact_quotes(said, quoted) == said
    assert redact_quotes("you said: Hello there", ["Hello there"]) == "you said: ***"
    assert redact_quotes("", [LONG]) == ""


UNSUPPORTED = "Unsupported value: 'temperature' does not support 0.5 with this model."
# what a service says, and a prompt that has the same words by chance
BY_CHANCE = {
    "a word": ("HTTP 404: The model `m` does not exist", "does not exist"),
    "short": ("HTTP 429: Rate limit reached", "Rate limit"),
    "one word": ("HTTP 400: Unsupported parameter: 'temperature'", "temperature"),
    "a field": ("HTTP 422: body.messages.0.tool_call_id: Field required", "tool_call_id"),
    "the sentence": (f"HTTP 400: {UNSUPPORTED}", UNSUPPORTED),
    "about it": (f"HTTP 400: {UNSUPPORTED}", f"What does it mean: {UNSUPPORTED} I ask you"),
    "a part": ("HTTP 400: Invalid value for the parameter", "An Invalid value for the best"),
    "the model": ("HTTP 404: no model named gpt-mini-5", "gpt-mini-5"),
    "a model in a sentence": (
        "HTTP 404: The model gpt-mini-5 does not exist",
        "Why do I read 'The model gpt-mini-5 does not exist'?",
    ),
    "a tool": ("HTTP 400: no such tool: get_weather", "Please use get_weather"),
    "a number": ("HTTP 400: at most 4096 tokens are allowed", "at most 4096 tokens are allowed"),
}


@every("name", BY_CHANCE)
def test_a_reason_stays_whatever_the_prompt_says(name: str) -> None:
    """Standing phrases, the request's own names, short numbers."""
    said, prompt = BY_CHANCE[name]
    assert redact_quotes(said, [prompt], ["gpt-mini-5", "get_weather"]) == said


@every(
    "secret",
    [
        "Hello there",
        "customer_4711",
        "3141592653",
        "get_password of Bob",
        "Anna Smith",
        "12345 67890",
    ],
)
def test_a_quote_goes_whatever_stands_around_it(secret: str) -> None:
    """Also one that is as short as a name, and one among standing words."""
    for said in (f"Invalid value: {secret}", f"the message '{secret}' is not allowed"):
        shown = redact_quotes(said, [secret, "gpt-mini-5"], ["gpt-mini-5", "get_weather"])
        assert secret not in shown
        assert "***" in shown
    prompt = f"The value of the field is {secret} and not another one"
    shown = redact_quotes(f"Invalid input: {prompt}", [prompt])
    assert shown == "Invalid input: ***"


def test_the_names_of_tools() -> None:
    """In each API's form; the names in a schema are none."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    tools = [
        {"type": "function", "function": {"name": "one", "parameters": schema}},
        {"type": "function", "name": "two", "parameters": schema},
        {"name": "three", "input_schema": schema},
        {"functionDeclarations": [{"name": "four", "parametersJsonSchema": schema}]},
        None,
    ]
    assert list(names_in([tools, {"type": "tool", "name": "five"}, "auto"])) == [
        *("one", "two", "three", "four", "five")
    ]


@pytest.mark.parametrize("api", APIS)
def test_the_name_of_the_model_stays(server: LLMServer, api: str) -> None:
    """Though the prompt is about it."""
    server.default = refused(api, 404, message="The model 'gpt-mini-5' is retired")
    with Client(api, base_url=server.base_url_for(api), **SETTINGS) as client:
        error = failure(client.stream("gpt-mini-5", model="gpt-mini-5"), Stream.result)
        other = failure(client.stream("is the gpt-mini-5 of Bob", model="x"), Stream.result)
    assert "The model 'gpt-mini-5' is retired" in str(error)
    assert "gpt-mini-5' is retired" in str(other)  # no 12 characters in common


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
@pytest.mark.parametrize("api", APIS)
def test_a_key_in_the_address_is_nowhere(
    server: LLMServer, api: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The query of base_url, and its user and password: sent, and in no log (urllib3's neither),
    error or repr; also where the service quotes the URL."""
    caplog.set_level(level)
    user, password, key = "marked-user", "marked%2Fpassword", "marked-query-key"
    url = server.base_url_for(api).replace("://", f"://{user}:{password}@")
    quoting = f"no route POST /x?key={key} for {user} with {password} or marked/password"
    server.script(
        Answer("Hi"),
        *[refused(api, status, message=quoting) for status in (404, 301, 403, 500)],
        Reply(b"<p>" + quoting.encode(), content_type="text/html"),
    )
    shown = []
    with Client(
        api, base_url=f"{url}?key={key}&api-version=2026-01-01", model="m", retry=RetryPolicy(1)
    ) as client:
        assert client.stream("Why?").result().text == "Hi"
        for _ in range(5):
            error = failure(client.stream("Why?"), Stream.result)
            shown += [str(error), repr(error), repr(error.__cause__), repr(vars(error))]
        shown.append(repr(client))
    assert all(request.query["key"] == key for request in server.requests)
    assert all(request.headers["authorization"].startswith("Basic ") for request in server.requests)
    text = "\n".join([*shown, caplog.text])
    assert (level > logging.DEBUG) or "urllib3.connectionpool" in text
    for mark in (user, password, "marked/password", key):
        assert mark not in text


def test_a_key_in_the_address_of_gemini_is_nowhere(
    server: LLMServer,
    everything: Everything,
    every_logger: pytest.LogCaptureFixture,  # noqa: F811
) -> None:
    """`?key=` is a way to send it there: not in what any observer lets out, an error inside the
    stream, a redirect or a pickle."""
    key = "AIzaMarked-query-key"
    quoting = f"API key not valid: {key}, see https://h/v1beta/models/m:x?key={key}&alt=sse"
    in_the_stream = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": quoting}}
    server.script(
        Answer("Hi"),
        Reply(Answer("Hi"), headers={"x-request-id": key}),
        Reply([sse_block(None, in_the_stream)]),
        Reply.json({}, 302, headers={"location": f"https://other.test/x?key={key}"}),
        Reply.json({"error": {"code": 400, "message": quoting, "status": key}}, 400),
    )
    shown = {}
    base_url = f"{server.base_url_for('gemini')}?key={key}"
    with Client(
        "gemini", base_url=base_url, model="m", retry=AGAIN, observers=everything.observers
    ) as client:
        shown["a result"] = repr(client.stream("Why?").result())
        shown["another result"] = repr(client.stream("Why?").result())
        for number in range(3):
            error = failure(client.stream("Why?"), Stream.result)
            shown[f"error {number}"] = "".join(everything_shown(error)) + traceback_of(error)
        shown["settings"] = repr(client.settings) + repr(pickle.dumps(client.settings, 0))
    assert [request.query["key"] for request in server.requests] == [key] * 5
    assert [request.query["alt"] for request in server.requests] == ["sse"] * 5
    nothing_marked({**everything.outputs(), **shown, "the log": every_logger.text}, key, "Marked-")


def test_the_texts_of_a_prompt() -> None:
    """All of them, however nested; names, roles and ids are no texts, and errors may name them."""
    prompt = [
        {"role": "user", "content": [{"type": "input_text", "text": "one"}, {"text": "two"}]},
        {"type": "function_call_output", "call_id": "call_12345678", "output": "three"},
        {"role": "assistant", "content": "four", "id": "msg_12345678"},
    ]
    assert list(prompt_texts(prompt)) == ["one", "two", "three", "four"]
    part = {"inlineData": {"mimeType": "image/x-own", "data": "AAAA"}}
    answered = {"functionResponse": {"name": "f", "id": "c-1", "response": {"output": "two"}}}
    parts = [{"role": "user", "parts": [{"text": "one"}, part, answered]}]
    assert list(prompt_texts(parts)) == ["one", "AAAA", "two"]
    assert list(prompt_texts("plain")) == ["plain"]
    assert list(prompt_texts(None)) == []


@pytest.mark.parametrize("api", APIS)
def test_an_error_still_says_what_is_wrong(server: LLMServer, api: str) -> None:
    """Ids and parameters that a service names stay readable; only the quote goes."""
    call_id = "call_abcdefgh12345678"
    said = f"no output found for {call_id}; in 'input[1].content': {PROMPT}"
    server.default = refused(api, 400, message=said)
    output = {"type": "function_call_output", "call_id": call_id, "output": "x", "role": "user"}
    prompt = [{"role": "user", "content": PROMPT}, {**output, "content": "y"}]
    with Client(api, base_url=server.base_url_for(api), **SETTINGS) as client:
        error = failure(client.stream(prompt), Stream.result)
    assert isinstance(error, InvalidRequestError)
    assert call_id in str(error)
    assert "'input[1].content': ***" in str(error)


def test_a_long_prompt_costs_little() -> None:
    """Two megabytes of prompt and an error of 500 characters: once, on the way out, a moment."""
    prompt = [f"word {number} of many, " * 8 for number in range(15_000)]
    assert cpu_seconds(lambda: redact_quotes("x" * 500, ["".join(prompt)])) < 2.0
    assert redact_quotes("x" * 500, ["".join(prompt)]) == "x" * 500


# ---- what is not blotted out ---------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["stream_options", "What is 'stream_options is not supported'?"])
def test_a_prompt_does_not_decide_how_a_refusal_is_met(server: LLMServer, prompt: str) -> None:
    """What a service says is understood before what it quotes is blotted out."""
    server.script(Reply.error(400, message="stream_options is not supported"), Answer("ok"))
    with Client("chat", base_url=server.base_url, model="m", api_key=KEY) as client:
        assert client.stream(prompt).result().text == "ok"


def test_codes_that_classify_stay(server: LLMServer) -> None:
    """A prompt about an error's code does not take the code from the error."""
    server.script(Reply.error(429, message="no", code="insufficient_quota"))
    with Client("chat", base_url=server.base_url, model="m", api_key=KEY) as client:
        error = failure(client.stream("What does insufficient_quota mean?"))
    assert (getattr(error, "code", None), error.retryable) == ("insufficient_quota", False)


def test_our_own_sentences_stay(nothing_left: None) -> None:
    """A prompt with the library's words does not make its errors useless."""
    with Client("chat", base_url="http://127.0.0.1:9", model="m", retry=AGAIN) as client:
        told = failure(client.stream("anything")).message
        assert failure(client.stream("connection")).message == told
        assert failure(client.stream(told)).message == told


def test_a_key_in_a_request_id_is_nowhere(server: LLMServer) -> None:
    """A service that gives the key back as the request's id: not in the error, nor its attempts,
    nor in what had come; and an id without end is cut."""
    for sent in (KEY, "x" * 5000):
        server.script(Reply.error(401, message="no", headers={"x-request-id": sent}))
        with Client(base_url=server.base_url, model="m", api_key=KEY) as client:
            error = failure(client.stream("Hi"))
        ids = {error.request_id, error.attempts[-1].request_id, error.partial.request_id}
        assert len(ids) == 1
        assert all(found and KEY not in found and len(found) <= 200 for found in ids)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "told", ["{}", "req-{}", "{}-1", "Bearer {}"], ids=["alone", "its end", "its begin", "a header"]
)
@pytest.mark.parametrize("secret", ["key", "header"])
def test_a_key_in_the_request_id_of_an_answer_is_nowhere(
    server: LLMServer, api: str, told: str, secret: str
) -> None:
    """A service that gives the key, or another secret header, back as the request's id: neither in
    the stream, nor in the result and its attempts, nor in what an observer is told."""
    headers = {"x-session-token": "tok-session-5521-marked"}
    sent = KEY if secret == "key" else headers["x-session-token"]
    name = "request-id" if api == "messages" else "x-request-id"
    server.script(Reply(Answer("one two"), headers={name: told.format(sent)}))
    seen, base = Told(), server.base_url_for(api)
    with Client(
        api, base_url=base, model="m", api_key=KEY, headers=headers, observers=[seen]
    ) as client:
        stream = client.stream("Hi")
        next(stream)
        early = stream.request_id
        result = stream.result()
    ids = {early, stream.request_id, result.request_id, result.attempts[-1].request_id}
    ids |= {seen.end.request_id, seen.attempts[-1].request_id}
    (found,) = ids
    assert found is not None
    assert "***" in found
    assert sent[:8] not in found
    assert sent[-8:] not in found


@pytest.mark.parametrize(
    "own", ["0123456789abcdef0123456789abcdef", "chatcmpl-8f2", "x", "***", "a" * 200]
)
def test_an_ordinary_request_id_stays(server: LLMServer, own: str) -> None:
    """That of the call, too: many services take it over."""
    server.script(Reply(Answer("one two"), headers={"x-request-id": own}))
    with Client("chat", base_url=server.base_url, model="m", api_key=KEY) as client:
        stream = client.stream("Hi", trace_id="0123456789abcdef0123456789abcdef")
        assert stream.result().request_id == own
