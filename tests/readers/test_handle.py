"""handle: a handler is told what happens, in order, and cannot break more than its own call."""

from __future__ import annotations

import io
import pickle
import signal
import threading
import time
from typing import Any

import pytest
from doubles import Script, broken
from every import every
from support import (
    BLOCKS,
    ENDLESS,
    OPENING,
    PROMPT,
    Reading,
    eventually,
    python,
)

from llmstream import (
    Cancelled,
    Chunk,
    Client,
    ConfigurationError,
    ConsoleHandler,
    LLMStreamError,
    Progress,
    RateLimitError,
    Result,
    StreamTruncated,
    Usage,
)
from llmstream.readers import handle
from llmstream.testing import Answer, Cut, LLMServer, Reply, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")

WORDS = [f"w{n} " for n in range(25)]
TEXT = "".join(WORDS)
# Seconds between reports that a test does not count: none of them is due, however busy the machine.
SELDOM = 3000.0


class Recorder:
    """Keeps what it is told, and by which thread."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def _keep(self, what: str, value: Any = None) -> None:
        self.told.append((what, value))
        self.threads.add(threading.get_ident())

    def on_token(self, text: str) -> None:
        self._keep("token", text)

    def on_progress(self, progress: Progress) -> None:
        self._keep("progress", progress)

    def on_complete(self, result: Result) -> None:
        self._keep("complete", result)

    def on_error(self, error: LLMStreamError) -> None:
        self._keep("error", error)

    def all(self, what: str) -> list[Any]:
        return [value for kind, value in self.told if kind == what]


# ---- what it is told ---------------------------------------------------------------------------


def test_a_success(server: LLMServer, client: Client) -> None:
    server.script(Answer(WORDS, thinking="hm"))
    recorder = Recorder()
    stream = client.stream(PROMPT)
    result = stream.handle(recorder, every_seconds=SELDOM, expected_chars=200)
    assert result.text == "".join(recorder.all("token")) == TEXT
    assert recorder.told[-1] == ("complete", result)
    assert recorder.all("error") == []
    assert recorder.threads == {threading.get_ident()}
    progress = recorder.all("progress")
    assert [p.chunks for p in progress if not p.done][:2] == [10, 20]
    last = progress[-1]
    assert recorder.told[-2] == ("progress", last)
    assert (last.done, last.error, last.fraction) == (True, None, 1.0)
    assert (last.chunks, last.chars) == (len(WORDS) + 1, len(TEXT))
    assert last.chunks_per_second == pytest.approx(last.chunks / last.elapsed)
    assert last.tokens_per_second == pytest.approx(result.usage.output_tokens / last.elapsed)


def test_a_failure(server: LLMServer, client: Client) -> None:
    """What arrived, then the progress with the error, then the error, which is raised."""
    server.script(Reply([*BLOCKS[:7], Cut()]))
    recorder = Recorder()
    with pytest.raises(LLMStreamError) as caught:
        client.stream(PROMPT).handle(recorder, expected_chars=1)
    assert "".join(recorder.all("token")) == caught.value.partial.text == "one two three"
    assert recorder.told[-1] == ("error", caught.value)
    last = recorder.all("progress")[-1]
    assert recorder.told[-2] == ("progress", last)
    assert (last.done, last.error, last.fraction) == (False, caught.value, 0.95)
    assert last.tokens_per_second is None
    assert recorder.all("complete") == []


def test_the_words_of_a_refusal(server: LLMServer, client: Client, capsys: Any) -> None:
    """No tokens; a handler that wants them has `on_refusal`. On a console they are the answer."""
    recorder, told = Recorder(), []
    server.script(*[Answer("Well, ", refusal=["I ", "can't"])] * 3)
    client.stream(PROMPT).handle(recorder)
    assert "".join(recorder.all("token")) == "Well, "
    recorder.on_refusal = told.append  # type: ignore[attr-defined]
    client.stream(PROMPT).handle(recorder)
    assert told == ["I ", "can't"]
    client.stream(PROMPT).handle(ConsoleHandler())
    assert capsys.readouterr().out == "Well, I can't\n"


def test_a_refusal(server: LLMServer, client: Client) -> None:
    server.script(Reply.error(429))
    recorder = Recorder()
    with pytest.raises(RateLimitError):
        client.stream(PROMPT).handle(recorder, every_seconds=SELDOM)
    assert [what for what, _ in recorder.told] == ["progress", "error"]


@every("only", ["on_token", "on_progress", "on_complete", "on_error"])
@every("error", [None, broken()], ids=["good", "bad"])
def test_every_method_is_optional(only: str, error: Exception | None) -> None:
    recorder = Recorder()

    class Only:
        def __init__(self) -> None:
            setattr(self, only, getattr(recorder, only))

    script = Script(WORDS, error)
    if error is None:
        assert handle(script, Only()).text == TEXT
    else:
        with pytest.raises(LLMStreamError, match="cut off"):
            handle(script, Only())
    told = {f"on_{what}" for what, _ in recorder.told}
    silent = only == ("on_error" if error is None else "on_complete")
    assert told == (set() if silent else {only})


def test_tokens_are_the_answer_only(server: LLMServer, client: Client) -> None:
    server.script(Answer(["a", "b"], thinking="hm", refusal="no", tool_calls=[("f", "{}")]))
    recorder = Recorder()
    client.stream(PROMPT).handle(recorder)
    assert recorder.all("token") == ["a", "b"]
    assert recorder.all("progress")[-1].chars == 2
    assert recorder.all("progress")[-1].chunks > 4


def test_without_usage_no_tokens_are_invented() -> None:
    recorder = Recorder()
    handle(Script(WORDS), recorder)
    assert {p.tokens_per_second for p in recorder.all("progress")} == {None}
    assert {p.fraction for p in recorder.all("progress")} == {None}


def test_the_fraction_is_no_promise() -> None:
    recorder = Recorder()
    handle(
        Script(WORDS), recorder, every_chunks=1, every_seconds=SELDOM, expected_chars=len(TEXT) // 2
    )
    fractions = [p.fraction for p in recorder.all("progress")]
    assert fractions == sorted(fractions)
    assert set(fractions[len(WORDS) // 2 + 1 : -1]) == {0.95}
    assert fractions[-1] == 1.0


def test_progress_comes_while_nothing_arrives() -> None:
    """A stream that stalls shows it."""
    recorder = Recorder()
    script = Script(["a"], before=lambda number: stalled(number))

    def stalled(number: int) -> None:
        if number:
            eventually(lambda: len(recorder.all("progress")) >= 3, "three reports of a stall")

    handle(script, recorder, every_chunks=None, every_seconds=0.02)
    times = [p.elapsed for p in recorder.all("progress")]
    assert times == sorted(times)
    assert recorder.threads == {threading.get_ident()}


@pytest.mark.parametrize("seconds", [None, SELDOM])
def test_both_turned_off(seconds: float | None) -> None:
    recorder = Recorder()
    handle(Script(WORDS), recorder, every_chunks=None, every_seconds=seconds)
    assert [p.done for p in recorder.all("progress")] == [True]


def test_no_thread_without_a_timer() -> None:
    seen: set[str] = set()
    script = Script(WORDS, before=lambda _: seen.add(threading.current_thread().name))
    handle(script, Recorder(), every_seconds=None)
    assert seen == {threading.current_thread().name}
    script = Script(WORDS, before=lambda _: seen.add(threading.current_thread().name))
    handle(script, Recorder())
    assert "llmstream-handle" in seen


def test_progress_is_a_value() -> None:
    progress = Progress(chunks=1, error=broken())
    copy = pickle.loads(pickle.dumps(progress))
    assert (copy.chunks, str(copy.error)) == (1, "cut off")
    with pytest.raises(AttributeError):
        progress.chunks = 2  # type: ignore[misc]


# ---- restarts ----------------------------------------------------------------------------------


class WithRestarts(Recorder):
    def on_restart(self) -> None:
        self._keep("restart")


def test_a_restart_is_told(server: LLMServer, client: Client) -> None:
    server.script(Reply([*BLOCKS[:6], Cut()]), Answer("new text"))
    recorder = WithRestarts()
    stream = client.stream(PROMPT, on_disconnect="restart")
    assert stream.handle(recorder, every_seconds=None).text == "new text"
    told = [value for kind, value in recorder.told if kind in ("token", "restart")]
    assert "".join(told[told.index(None) + 1 :]) == "new text"
    assert recorder.all("progress")[-1].chars == len("new text")


def test_a_restart_that_cannot_be_told_is_refused(server: LLMServer, client: Client) -> None:
    with pytest.raises(ConfigurationError, match=r"on_restart\(\)"):
        client.stream(PROMPT, on_disconnect="restart").handle(Recorder())
    assert server.connections == 0
    script = Script(["a", Chunk("restart", ""), "b"])
    with pytest.raises(ConfigurationError, match=r"on_restart\(\)"):
        handle(script, Recorder(), every_seconds=None)
    assert script.stopped


def test_who_wants_no_tokens_needs_no_restarts(server: LLMServer, client: Client) -> None:
    class Late:
        def on_complete(self, result: Result) -> None:
            self.result = result

    late = Late()
    stream = client.stream(PROMPT, on_disconnect="restart")
    assert stream.handle(late) is late.result


# ---- handlers that fail ------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [None, 1.0])
@pytest.mark.parametrize("fault", [ZeroDivisionError("a bug"), broken("another stream's")])
def test_a_handler_that_raises_ends_the_stream(
    server: LLMServer, client: Client, fault: Exception, seconds: float | None
) -> None:
    """Its own exception is raised, the service sees the end, and on_error is not called."""
    server.script(Reply([*OPENING, ENDLESS, Silence()]))

    class Faulty(Recorder):
        def on_token(self, text: str) -> None:
            raise fault

    faulty = Faulty()
    stream = client.stream(PROMPT)
    with pytest.raises(type(fault)) as caught:
        stream.handle(faulty, every_seconds=seconds)
    assert caught.value is fault
    eventually(lambda: server.open_connections == 0, "the service sees the end")
    assert faulty.all("error") == faulty.all("complete") == []
    assert "ended" in repr(stream)
    with pytest.raises(Cancelled):
        stream.result()


@pytest.mark.parametrize("method", ["on_progress", "on_complete", "on_error"])
def test_any_method_may_raise(method: str) -> None:
    def fail(value: Any) -> None:
        raise ZeroDivisionError

    recorder = Recorder()
    setattr(recorder, method, fail)
    script = Script(WORDS, broken() if method == "on_error" else None)
    with pytest.raises(ZeroDivisionError) as caught:
        handle(script, recorder)
    if method == "on_error":
        assert "cut off" in str(caught.value.__context__)


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_a_handler_may_cancel(server: LLMServer, client: Client, seconds: float | None) -> None:
    """Nothing more is delivered, whichever thread reads the stream."""
    server.script(Reply([*OPENING, *[ENDLESS] * 50, Silence()]))
    stream = client.stream(PROMPT)

    class Enough(Recorder):
        def on_token(self, text: str) -> None:
            super().on_token(text)
            stream.cancel("enough")

    enough = Enough()
    with pytest.raises(Cancelled, match="enough"):
        stream.handle(enough, every_seconds=seconds)
    assert len(enough.all("token")) == 1
    assert isinstance(enough.all("error")[0], Cancelled)


def test_a_cancel_from_another_thread(server: LLMServer, client: Client) -> None:
    server.script(Reply([*OPENING, ENDLESS, Silence()]))
    stream = client.stream(PROMPT)
    recorder = Recorder()
    reading = Reading(stream, lambda s: s.handle(recorder))
    eventually(lambda: recorder.all("token"), "the first token")
    stream.cancel()
    assert isinstance(reading.ended(), Cancelled)
    assert isinstance(recorder.all("error")[0], Cancelled)


# ---- what is refused ---------------------------------------------------------------------------


class Async:
    async def on_token(self, text: str) -> None: ...


class Odd:
    on_token = "print"


class Nothing:
    def on_tokens(self, text: str) -> None: ...


@pytest.mark.parametrize("handler", [None, print, Recorder, Nothing(), Async(), Odd(), "x"])
def test_what_is_no_handler_is_refused(server: LLMServer, client: Client, handler: Any) -> None:
    with pytest.raises(ConfigurationError, match="handler"):
        client.stream(PROMPT).handle(handler)
    assert server.connections == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"every_chunks": 0},
        {"every_chunks": 1.5},
        {"every_seconds": 0},
        {"every_seconds": float("nan")},
        {"every_seconds": "1"},
        {"expected_chars": 0},
        {"expected_chars": -5},
        {"expected_chars": True},
    ],
    ids=str,
)
def test_odd_values_are_refused(client: Client, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        client.stream(PROMPT).handle(Recorder(), **wrong)


def test_a_stream_that_was_read_is_refused(server: LLMServer, client: Client) -> None:
    server.script(Answer(WORDS))
    stream = client.stream(PROMPT)
    next(stream)
    with pytest.raises(ConfigurationError, match="already being read"):
        stream.handle(Recorder())
    stream = client.stream(PROMPT)
    assert stream.result()
    with pytest.raises(ConfigurationError, match="read before"):
        stream.handle(Recorder())


INTERRUPTED = """
    import sys
    from llmstream import Client
    from llmstream.testing import LLMServer, Reply, Silence
    from support import ENDLESS, OPENING

    class Handler:
        def on_token(self, text): print("token", flush=True)
        def on_error(self, error): print("told", flush=True)
        def on_progress(self, progress): pass

    with LLMServer() as server:
        server.script(Reply([*OPENING, ENDLESS, Silence()]))
        client = Client("responses", base_url=server.base_url, api_key="k")
        stream = client.stream("Hi")
        try:
            stream.handle(Handler(), every_seconds=eval(sys.argv[1]))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        server.wait_all_closed(5.0)
        print("ended" in repr(stream))
        client.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["None", "1.0"])
def test_ctrl_c_ends_it_at_once(seconds: str) -> None:
    with python(INTERRUPTED, seconds) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "token\n"
        time.sleep(0.2)  # it is about to wait
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert output.split() == ["interrupted", "True"]


# ---- the console -------------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal; `shown` is what a user sees."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> list[str]:
        lines: list[str] = [""]
        for part in self.getvalue().replace("\n", "\n\0").split("\0"):
            row = ""
            for text in part.rstrip("\n").split("\r"):
                row = text + row[len(text) :]
            lines[-1] = row.rstrip()
            if part.endswith("\n"):
                lines.append("")
        return lines


def test_a_pipe_gets_the_text_as_it_is() -> None:
    out, err = io.StringIO(), io.StringIO()
    handle(Script(["a\x1b[2J", "b"]), ConsoleHandler(out, err), every_chunks=1)
    assert (out.getvalue(), err.getvalue()) == ("a\x1b[2Jb\n", "")


def test_a_terminal_gets_no_control_characters() -> None:
    out, err = Screen(), Screen()
    handle(Script(["a\x1b[2J\u202e", "b\n"]), ConsoleHandler(out, err))
    assert out.getvalue() == "a\\x1b[2J\\u202eb\n"


def test_the_progress_on_a_terminal() -> None:
    """In one line beside a pipe; at the end as a line."""
    out, err = io.StringIO(), Screen()
    handle(Script(WORDS), ConsoleHandler(out, err), expected_chars=100)
    assert out.getvalue() == f"{TEXT}\n"
    assert err.getvalue().count("\r") >= 3
    assert err.shown[-1] == ""
    assert len(err.shown) == 2
    assert err.shown[0].startswith("100%, 25 chunks, 90 characters, ")


def test_the_progress_never_runs_into_the_text() -> None:
    """Where both are one terminal."""
    both = Screen()
    handler = ConsoleHandler(both, both)
    handler.on_progress(Progress(chunks=3, elapsed=1.0))
    assert both.shown == ["3 chunks, 0 characters, 1.0 s"]
    handler.on_token("Hello")
    assert both.shown == ["Hello"]
    handler.on_progress(Progress(chunks=4, chars=5, elapsed=2.0))
    handler.on_progress(Progress(chunks=4, chars=5, elapsed=2.0, done=True))
    handler.on_complete(Result())
    assert both.shown == ["Hello", "4 chunks, 5 characters, 2.0 s", ""]


def test_an_error_is_one_line() -> None:
    out, err = Screen(), Screen()
    with pytest.raises(LLMStreamError):
        handle(Script(["half"], broken("cut\x1b off")), ConsoleHandler(out, err))
    assert out.getvalue() == "half\n"
    assert err.shown == ["LLMStreamError: cut\\x1b off", ""]


def test_an_encoding_that_lacks_characters() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    handle(Script(["a\u20ac\U0001f600\ud83d"]), ConsoleHandler(out, io.StringIO()))
    assert raw.getvalue() == b"a\\u20ac\\U0001f600\\ud83d\n"


def test_a_program_without_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pythonw.exe has none."""
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert handle(Script(WORDS), ConsoleHandler()).text == TEXT


def test_a_closed_pipe_ends_the_stream(server: LLMServer, client: Client) -> None:
    server.script(Reply([*OPENING, ENDLESS, Silence()]))

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        client.stream(PROMPT).handle(ConsoleHandler(Closed(), io.StringIO()))
    eventually(lambda: server.open_connections == 0, "the service sees the end")


def test_a_handler_serves_one_stream_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    console = ConsoleHandler()
    for _ in range(2):
        handle(Script(["one", " two"]), console)
    assert capsys.readouterr().out == "one two\none two\n"


def test_a_truncated_answer_is_reported(server: LLMServer, client: Client, capsys: Any) -> None:
    server.script(Reply([*BLOCKS[:7]]))
    with pytest.raises(StreamTruncated):
        client.stream(PROMPT).handle(ConsoleHandler())
    printed = capsys.readouterr()
    assert printed.out == "one two three\n"
    assert printed.err.startswith("StreamTruncated: ")


def test_usage_makes_the_speed() -> None:
    script = Script(WORDS)
    whole = script.result
    script.result = lambda: Result(  # type: ignore[method-assign]
        text=whole().text, usage=Usage(output_tokens=50)
    )
    err = Screen()
    handle(script, ConsoleHandler(io.StringIO(), err))
    assert err.shown[0].endswith(" tokens/s")
