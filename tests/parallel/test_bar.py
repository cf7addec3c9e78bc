"""The progress bar of a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmstream import BatchError, Client, ConfigurationError
from llmstream.parallel.bar import Bar
from llmstream.readers import Outcome
from llmstream.result import Result
from llmstream.testing import Answer, LLMServer, Reply

pytest.importorskip("tqdm")

ClientFor = Callable[..., Client]
PROMPTS = ["a", "b", "bad", "c"]


def read_outcomes(batch: Any) -> None:
    assert len(list(batch)) == len(PROMPTS)


def read_results(batch: Any) -> None:
    with pytest.raises(BatchError):
        batch.results()


def read_chunks(batch: Any) -> None:
    with pytest.raises(BatchError):
        list(batch.chunks())


@pytest.mark.parametrize("read", [read_outcomes, read_results, read_chunks])
def test_the_bar_shows_what_has_ended(
    read: Callable[[Any], None],
    server: LLMServer,
    client_for: ClientFor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On stderr: how many of how many, at which rate, and how many failed."""
    server.default = lambda r: (
        Reply.error(400) if r.json()["input"] == "bad" else Answer("x", usage=(10, 1))
    )
    read(client_for(server).parallel(PROMPTS, progress=True))
    written = capsys.readouterr().err.split("\r")[-1]
    assert "4/4" in written
    assert "call/s" in written
    assert "errors=1" in written


def test_nothing_is_drawn_before_the_first_use(
    server: LLMServer, client_for: ClientFor, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a bar whose batch is left early is closed."""
    client = client_for(server)
    batch = client.parallel(iter(PROMPTS), progress=True)
    assert capsys.readouterr().err == ""
    with batch:
        next(batch)
    written = capsys.readouterr().err
    assert "1call" in written
    assert written.endswith("\n")
    del batch
    assert capsys.readouterr().err == ""


def test_the_bar_of_an_iterator_that_raises_is_closed(
    server: LLMServer, client_for: ClientFor
) -> None:
    """Also where it raises an error of the library."""

    def prompts() -> Iterator[str]:
        yield "a"
        raise ConfigurationError("of the caller's own client")

    batch = client_for(server).parallel(prompts(), progress=True)
    with pytest.raises(ConfigurationError, match="caller's own"):
        list(batch)
    assert batch._run.bar._bar is None


def test_the_bar_adds_up_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """Of what is known; also of calls that failed."""
    from tqdm import tqdm

    class Service:
        api = host = ""

        def cost(self, result: Any, at: Any = None) -> Any:
            class Cost:
                from decimal import Decimal

                amount = Decimal("0.0125")

            return Cost

    bar = Bar(tqdm, 2)
    bar.open()
    bar.show(Outcome(0, "", Result(service=Service()), None))  # type: ignore[arg-type]
    bar.show(Outcome(1, "", Result(service=Service()), None))  # type: ignore[arg-type]
    bar.close()
    bar.close()
    assert "cost=$0.0250" in capsys.readouterr().err


def test_a_terminal_that_is_gone_ends_no_batch(
    server: LLMServer, client_for: ClientFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError

        flush = isatty = fileno = write

    monkeypatch.setattr(sys, "stderr", Gone())
    assert len(list(client_for(server).parallel(PROMPTS, progress=True))) == 4
    monkeypatch.setattr(sys, "stderr", None)
    assert len(list(client_for(server).parallel(PROMPTS, progress=True))) == 4


def test_without_tqdm_it_says_how_to_install_it(
    server: LLMServer, client_for: ClientFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, before anything is sent."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ConfigurationError, match=r'pip install "llmstream-sync\[progress\]"'):
        client_for(server).parallel(PROMPTS, progress=True)
