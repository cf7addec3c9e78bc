"""Batches over threads: outcomes, results, chunks; prompts, their mistakes and their iterators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmstream import Client
from llmstream.testing import Answer, LLMServer

ClientFor = Callable[..., Client]


def test_outcomes_come_as_the_calls_end(server: LLMServer, client_for: ClientFor) -> None:
    """Each prompt has one, with its index and the prompt as it was given."""
    prompts = ["a", [{"role": "user", "content": "b"}], {"prompt": "c", "temperature": 0.5}]
    outcomes = sorted(client_for(server).parallel(prompts), key=lambda outcome: outcome.index)
    assert [(o.index, o.prompt, o.ok) for o in outcomes] == [
        (index, prompt, True) for index, prompt in enumerate(prompts)
    ]
    assert sorted(str(r.json().get("temperature")) for r in server.requests) == [
        "0.5",
        "None",
        "None",
    ]


def test_results_are_in_order(server: LLMServer, client_for: ClientFor) -> None:
    server.script(*(Answer(f"answer {n}") for n in range(6)))
    batch = client_for(server).parallel([str(n) for n in range(6)], max_workers=1)
    assert [result.text for result in batch.results()] == [f"answer {n}" for n in range(6)]
    assert batch.results() == batch.results()


def test_nothing_is_sent_before_the_first_use(server: LLMServer, client_for: ClientFor) -> None:
    def prompts() -> Any:
        raise AssertionError("drawn")
        yield

    with client_for(server).parallel(prompts()) as batch:
        assert repr(batch) == "<Batch not started>"
    assert not server.requests
