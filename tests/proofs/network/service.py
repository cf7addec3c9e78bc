"""An LLM service as a process of its own: `service.py HOST`, over HTTP and TLS.

Says where it listens, in one line of JSON; answers each line of its input (the beginning of a
trace id) with what it knows of those requests; ends with its input. The prompt says what to play.
"""

from __future__ import annotations

import functools
import json
import sys

from llmstream.testing import Answer, LLMServer, Pause, Recorded, Reply, Send
from llmstream.testing.answers import api_of_path
from llmstream.testing.script import prompt_text

PACE = 0.02  # seconds between two events
WHOLE = 60  # words of an answer that is to come to its end
ENDLESS = 3000  # words of one that no test waits for: a minute


def words(count: int) -> str:
    """The text of an answer of so many words; each is one event of the stream."""
    return " ".join(f"word{number}" for number in range(count))


@functools.cache
def blocks_of(count: int, api: str) -> tuple[bytes, ...]:
    return tuple(Answer(words(count)).blocks(api))


def reply_to(recorded: Recorded) -> Reply:
    """A prompt is "COUNT FRAMING": that many words, one each `PACE` seconds."""
    count, framing = prompt_text(recorded).split()
    steps: list[Send | Pause] = []
    for block in blocks_of(int(count), api_of_path(recorded.path) or ""):
        steps += [Send(block), Pause(PACE)]
    steps.pop()  # the end comes with the last event, so that the connection can be kept
    return Reply(steps, framing=framing)  # type: ignore[arg-type]


def main() -> None:
    host = sys.argv[1]
    with LLMServer(host=host) as plain, LLMServer(tls=True, host=host) as secure:
        plain.default = secure.default = reply_to
        print(json.dumps([plain.url, secure.url, secure.ca_file]), flush=True)
        for line in sys.stdin:
            found = [
                one
                for server in (plain, secure)
                for one in server.requests
                if one.headers.get("x-client-request-id", "").startswith(line.strip())
            ]
            closed = sum(one.closed_at is not None for one in found)
            print(json.dumps({"requests": len(found), "closed": closed}), flush=True)


if __name__ == "__main__":
    main()
