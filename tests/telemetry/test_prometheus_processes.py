"""PrometheusObserver in forked children and in the workers of a prefork server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from scraped import (
    API,
    BUSY,
    HERE,
    Page,
    end,
    get,
)
from support import PACKAGE, PATIENCE, TESTS, TWO_TOKENS, eventually, output_of

from llmstream.testing import Answer, LLMServer, Recorded, Reply, Silence
from llmstream.testing.script import prompt_text

pytestmark = pytest.mark.usefixtures("nothing_left")

# --- forks --------------------------------------------------------------------------------------

IN_A_CHILD = """
    import os, sys
    from prometheus_client import CollectorRegistry, generate_latest
    from llmstream import Client
    from llmstream.telemetry.prometheus import PrometheusObserver
    from llmstream.testing import LLMServer, Reply, Silence, Answer
    from support import TWO_TOKENS
    from scraped import Page, MODEL, API, read

    registry = CollectorRegistry()
    client = Client(base_url=sys.argv[1], api_key="k", model=MODEL,
                    observers=[PrometheusObserver(registry, models=[MODEL])])
    stream = client.stream("hold")
    next(stream)
    flying = lambda: read(registry)("llm_stream_in_flight", *API)
    said = [("parent", flying())]
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = [("child", flying())]
        stream.close()  # the child's copy: the parent's call goes on
        said.append(("child", flying()))
        with client.stream("hold") as own:
            next(own)
            said.append(("child", flying()))
        said.append(("child", flying()))
        os.write(w, repr(said).encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as pipe:
        said += eval(pipe.read())
    assert os.waitpid(pid, 0)[1] == 0
    said.append(("parent", flying()))
    stream.close()
    said.append(("parent", flying()))
    print(said)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("multiprocess", [False, True])
def test_a_forked_child_has_no_call_in_flight(
    multiprocess: bool, server: LLMServer, tmp_path: Path
) -> None:
    """The parent's calls are not the child's: there they are not in flight, and end nothing; its
    own are counted."""
    where = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if multiprocess else {}
    server.script(*[Reply([*TWO_TOKENS, Silence()])] * 2)
    said = output_of(IN_A_CHILD, server.base_url, **HERE, **where)
    assert eval(said) == [
        ("parent", 1),
        *(("child", number) for number in (0, 0, 1, 0)),
        *(("parent", number) for number in (1, 0)),
    ]


FORKS_UNDER_LOAD = """
    import faulthandler, os, sys, threading, warnings
    warnings.simplefilter("ignore")
    sys.setswitchinterval(1e-5)
    from prometheus_client import CollectorRegistry
    from llmstream.telemetry.prometheus import PrometheusObserver
    from scraped import call_of, attempt_of, tell, read

    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    over = threading.Event()

    def count(number):
        while not over.is_set():
            tell(observer, call_of(number), attempt_of())

    def look():
        while not over.is_set():
            read(registry)

    threads = [threading.Thread(target=count, args=(n,)) for n in range(4)]
    threads.append(threading.Thread(target=look))
    for thread in threads:
        thread.start()
    for _ in range(50):
        pid = os.fork()
        if pid == 0:
            faulthandler.dump_traceback_later(20, exit=True)  # says where it hangs
            tell(observer, call_of(99), attempt_of())
            # Not by way of the registry, whose own lock the scraping thread may have held.
            families = {family.name: family for family in observer._metrics.collect()}
            flying = [sample.value for sample in families["llm_stream_in_flight"].samples]
            os._exit(0 if flying == [0] else 1)
        if status := os.waitpid(pid, 0)[1]:
            print("the child:", status)
            break
    over.set()
    for thread in threads:
        thread.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("multiprocess", [False, True])
def test_a_fork_while_others_count(multiprocess: bool, tmp_path: Path) -> None:
    """A child that is forked in the middle of other threads' counting can count: no lock is held
    for ever."""
    where = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if multiprocess else {}
    assert output_of(FORKS_UNDER_LOAD, **HERE, **where) == ""


# --- four workers -------------------------------------------------------------------------------


class Gunicorn:
    """Four real gunicorn workers that run tests/telemetry/prefork/app.py."""

    def __init__(self, service: str, directory: Path, *options: str) -> None:
        database, temporary = directory / "metrics", directory / "workers"
        database.mkdir()
        temporary.mkdir()
        self.log = directory / "log"
        with socket.create_server(("127.0.0.1", 0)) as listener, self.log.open("wb") as log:
            self.port = listener.getsockname()[1]
            command = [sys.executable, "-m", "gunicorn", "app:app", *options]
            command += ["--config", "gunicorn_conf.py", "--bind", f"fd://{listener.fileno()}"]
            command += ["--worker-tmp-dir", str(temporary)]
            self.process = subprocess.Popen(
                command,
                cwd=TESTS / "telemetry" / "prefork",
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                env={
                    **os.environ,
                    "HOME": str(directory),  # some versions put a control socket there
                    "PYTHONPATH": str(PACKAGE),
                    "PROMETHEUS_MULTIPROC_DIR": str(database),
                    "SERVICE": service,
                },
            )

    def page(self) -> Page:
        return Page(get(self.port))

    def ask(self, prompt: str) -> tuple[int, str]:
        """The worker's process, and its whole answer."""
        response = self.begin(prompt)
        with contextlib.closing(response):
            return int(response.headers["X-Worker"]), response.read().decode()

    def begin(self, prompt: str) -> Any:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{prompt}", timeout=PATIENCE)

    def __enter__(self) -> Gunicorn:
        return self

    def __exit__(self, *exc: object) -> None:
        end(self.process)
        if exc[0] is not None:
            print(self.log.read_text())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system that forks")
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_four_gunicorn_workers_of_which_one_is_killed(
    options: tuple[str, ...], server: LLMServer, tmp_path: Path
) -> None:
    """The workers' numbers add up at whichever is scraped; what a killed one had counted stays, its
    call is not in flight any more."""
    together = threading.Barrier(4)

    def reply(recorded: Recorded) -> Reply | Answer:
        prompt = prompt_text(recorded)
        if prompt == "together":
            together.wait(PATIENCE)
        if prompt == "busy" and busy:
            return busy.pop()
        if prompt == "hold":
            return Reply([*TWO_TOKENS, Silence()])
        return Answer("one two", usage=(3, 5))

    busy = [Reply.error(503), BUSY]
    server.script(*[reply] * 20)
    with Gunicorn(server.base_url, tmp_path, *options) as gunicorn:
        # Four at once, one for each worker: none is answered before all have asked.
        answers: list[tuple[int, str]] = []
        threads = [
            threading.Thread(target=lambda: answers.append(gunicorn.ask("together")))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        workers = {worker for worker, _ in answers}
        assert [text for _, text in answers] == ["one two"] * 4
        assert len(workers) == 4
        assert gunicorn.ask("busy")[1] == "one two"  # at the third attempt

        # One is killed in mid-stream.
        with contextlib.closing(gunicorn.begin("hold")) as response:
            killed = int(response.headers["X-Worker"])
            assert response.read(3) == b"one"
            assert gunicorn.page()("llm_stream_in_flight", *API) == 1
            os.kill(killed, signal.SIGKILL)
            eventually(
                lambda: gunicorn.page()("llm_stream_in_flight", *API) == 0,
                "the killed worker's call is not in flight",
            )
        for _ in range(4):
            worker, text = gunicorn.ask("after")
            assert text == "one two"
            assert worker != killed

        page = gunicorn.page()
        assert page.all("llm_stream_total_duration_ms_count") == {
            (*API, "success"): 9,
            (*API, "error"): 0,
            (*API, "cancelled"): 0,
        }
        assert page("llm_stream_first_token_ms_count", *API) == 10  # the killed one's too
        assert page.all("llm_stream_tokens_in") == {API: 27}
        assert page.all("llm_stream_tokens_out") == {API: 45}
        assert page.all("llm_stream_retry_count") == {
            (*API, "RateLimitError"): 1,
            (*API, "OverloadedError"): 1,
        }
        assert page.all("llm_stream_error_total") == {
            ("rate_limit_exceeded", "RateLimitError"): 1,
            ("503", "OverloadedError"): 1,
        }
        assert page.all("llm_stream_in_flight") == {API: 0}
