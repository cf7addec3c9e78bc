"""The timeline of a call: a page that shows where its time went.

    from llmstream import Client
    from llmstream.telemetry import TimelineObserver

    timeline = TimelineObserver("out.html")
    client = Client(observers=[timeline])

The page stands alone: it has no script and fetches nothing. It is light or dark as the reader's
system is, and it prints. It shows times, counts, names and errors; never a prompt, an answer, a key
or a header.
"""

from __future__ import annotations

from .observer import TimelineObserver

__all__ = ["TimelineObserver"]
