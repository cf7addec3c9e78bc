"""The dashboard's queries and the names of the metrics, put to a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from scraped import (
    MODEL,
    QUOTA,
    TYPES,
    attempt_of,
    call_of,
    end,
    exposed,
    observer_fixture,  # noqa: F401 - a fixture
    read,
    registry_fixture,  # noqa: F401 - a fixture
    tell,
)
from support import ANSWER, BLOCKS, PACKAGE, PATIENCE, PROMPT, TWO_TOKENS, eventually, failure

from llmstream import Client, RetryPolicy
from llmstream.result import Usage
from llmstream.telemetry.prometheus import PrometheusObserver
from llmstream.telemetry.records import RetryRecord
from llmstream.testing import Answer, Cut, LLMServer, Pause, Reply

pytestmark = pytest.mark.usefixtures("nothing_left")

DASHBOARDS = PACKAGE / "llmstream" / "telemetry" / "dashboards"
VARIABLES = {"$api": ".*", "$model": ".*", "$__rate_interval": "10s"}  # as "All" is


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DASHBOARDS / "llmstream.json").read_text())
    return found


def queries() -> dict[str, str]:
    """The dashboard's queries with their variables filled in, by panel and legend."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found[f"{panel['title']}: {target['legendFormat']}"] = expression
    return found


def advised() -> list[str]:
    """The queries of the dashboards' README."""
    text = (DASHBOARDS / "README.md").read_text()
    block = re.search(r"```promql\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = [line for line in block[1].splitlines() if not line.startswith("#")]
    return [query for query in "\n".join(lines).split("\n\n") if query.strip()]


def test_the_dashboard_is_complete() -> None:
    """Every metric is on it and no other; panels have their own place, id and data source."""
    panels = dashboard()["panels"]
    named = {
        re.sub(r"_(bucket|count|sum)$", "", name) if name != "llm_stream_retry_count" else name
        for query in queries().values()
        for name in re.findall(r"llm_stream_\w+", query)
    }
    later = {"llm_stream_tool_duration_ms", "llm_stream_cost_usd"}  # exposed once there is one
    assert named == {*TYPES, *later}
    assert not [query for query in queries().values() if "$" in query]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    parts = [*panels, *(target for panel in panels for target in panel["targets"])]
    assert all(part["datasource"] == chosen for part in parts)
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "api", "model"]


class Prometheus:
    """A real Prometheus that scrapes one port each second."""

    def __init__(self, directory: Path, target: int) -> None:
        config = directory / "prometheus.yml"
        job = {"job_name": "llmstream", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        every = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        config.write_text(json.dumps({"global": every, "scrape_configs": [job]}))  # JSON is YAML
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
            )

    def _address(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r'"?Listening on"? address=(\S+)', self.log.read_text())
        return found and found[1]

    def ask(self, path: str, **query: str) -> Any:
        """What the API returns; None while it is not ready."""
        address = eventually(self._address, "prometheus listens")
        where = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(where, timeout=PATIENCE) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code == 503:
                    return None
                pytest.fail(f"{query}: {exc.read().decode()}")
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        data = self.ask("query", query=expression) or {"result": []}
        return [float(series["value"][1]) for series in data["result"]]

    def is_up(self) -> bool:
        data = self.ask("targets")
        return bool(data and [t for t in data["activeTargets"] if t["health"] == "up"])

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *exc: object) -> None:
        end(self.process)


def busy_hour(server: LLMServer, client: Client) -> None:
    """Something for every panel."""
    server.script(Reply.error(503), ANSWER, Reply([*TWO_TOKENS, Cut()]), QUOTA)
    server.script(Reply([*BLOCKS[:6], Pause(0.02), *BLOCKS[6:]]))
    client.stream(PROMPT).result()
    failure(client.stream(PROMPT))
    failure(client.stream(PROMPT))
    client.stream(PROMPT).result()
    server.script(Answer(tool_calls=[("look", "{}")]), Answer("Done."))
    client.run(PROMPT, [look]).result()
    server.script(Reply(Answer("Hi"), headers={"x-litellm-response-cost": "0.0125"}))
    client.stream(PROMPT).result()


def look() -> str:
    """Look."""
    return "seen"


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (apt-get install prometheus)"
)
def test_a_real_prometheus_answers_every_panel(
    server: LLMServer,
    client_for: Callable[..., Client],
    registry: CollectorRegistry,
    observer: PrometheusObserver,
    tmp_path: Path,
) -> None:
    """Scraped by a real Prometheus, every query of the dashboard returns numbers, and those of its
    README are understood; the exemplars arrive."""
    policy = RetryPolicy(base=0.01, cap=0.01, jitter=0.0)
    client = client_for(server, model=MODEL, retry=policy, observers=[observer])
    with exposed(registry) as port, Prometheus(tmp_path, port) as prometheus:
        eventually(prometheus.is_up, "the target is up", within=30)
        missing = queries()

        def all_answered() -> bool:
            busy_hour(server, client)  # rates need something between two scrapes
            for title, expression in list(missing.items()):
                values = prometheus.values(expression)
                if values and all(value == value and value >= 0 for value in values):
                    del missing[title]
            return not missing

        with contextlib.suppress(pytest.fail.Exception):
            eventually(all_answered, "every panel has numbers", within=40)
        assert missing == {}
        for expression in advised():
            prometheus.ask("query", query=expression)
        counted = read(registry).total("llm_stream_error_total")
        eventually(
            lambda: sum(prometheus.values("llm_stream_error_total")) == counted,
            "the last numbers are scraped",
        )
        found = prometheus.ask(
            "query_exemplars",
            query="llm_stream_first_token_ms_bucket",
            start=str(time.time() - 300),
            end=str(time.time() + 1),
        )
        assert found, "no exemplars"
        assert {
            re.fullmatch("[0-9a-f]{32}", e["labels"]["trace_id"]) is not None
            for series in found
            for e in series["exemplars"]
        } == {True}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (apt-get install prometheus)"
)
def test_promtool_has_nothing_else_to_say(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """`promtool check metrics` accepts the exposition; what it remarks on are the names, which are
    fixed: their unit, and a gauge that ends in `_count`."""
    failed = attempt_of(outcome="error", error_type="ServerError", error_code="500")
    tell(observer, call_of(), failed, attempt_of(usage=Usage(1, 2)))
    observer.on_retry(
        call_of(), RetryRecord(attempt=1, wait_ms=1.0, error_type="ServerError", phase="headers")
    )
    run = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        timeout=60,
        check=False,
    )
    remarks = set((run.stdout + run.stderr).decode().splitlines())
    units = "metric names should not contain abbreviated units"
    known = {
        f"{name}{end} {units}" for name in TYPES if name.endswith("_ms") for end in ("", "_created")
    }
    known.add(
        'llm_stream_retry_count non-histogram and non-summary metrics should not have "_count" '
        "suffix"
    )
    assert remarks <= known
    assert run.returncode in (0, 3)  # 3: there are remarks
