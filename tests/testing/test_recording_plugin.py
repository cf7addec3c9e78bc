"""The fixtures and options of the pytest plugin, in a pytest of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmstream.testing import Answer, LLMServer

TESTS = '''
import os
import pytest
from llmstream import Client, ConfigurationError, RetryPolicy

URL = os.environ["SERVICE"]


def application(prompt):
    """Code that makes its own client."""
    with Client(base_url=URL, retry=RetryPolicy(max_attempts=1)) as client:
        return client.stream(prompt).result().text


def test_one(llm_recording):
    assert application("one") == "answer"


class TestMany:
    @pytest.mark.parametrize("word", ["a/b", "a b", "a b", "x" * 200])
    def test_words(self, llm_recording, word):
        assert application(word) == "answer"


@pytest.mark.llm_recording("elsewhere/shared.json", ignore=["input"])
def test_marked(llm_recording):
    assert application(os.urandom(4).hex()) == "answer"


def test_that_fails(llm_recording):
    application("two")
    assert os.environ.get("MAY_PASS")


def test_that_asks_nothing(llm_recording):
    assert llm_recording.requests == []


def test_that_swallows(llm_recording):
    try:
        application("three")
    except ConfigurationError:
        pass


def test_forbidden(llm_forbid_network):
    with Client(base_url="http://192.0.2.1") as client:
        with pytest.raises(ConfigurationError, match="forbidden"):
            client.stream("Hi").result()
'''


OPTIONS = (
    *("-p", "llmstream.testing.plugin", "-p", "no:cacheprovider", "-rA", "-q"),
    *("-o", "addopts=", "--strict-markers", "--strict-config"),
)


@pytest.fixture
def service(server: LLMServer) -> LLMServer:
    server.default = Answer("answer")
    return server


def run(folder: Path, url: str, *options: str, **environment: str) -> tuple[dict[str, str], str]:
    """Run the tests; what became of each, and what pytest has said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, *options],
        cwd=folder,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "SERVICE": url,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "ERROR"):
            name = rest.split(" - ")[0].rpartition("::")[2]
            found[name] = word if found.get(name, word) == word else "ERROR"
    return found, done.stdout + done.stderr


@pytest.mark.slow
def test_a_suite_is_recorded_and_replayed(service: LLMServer, tmp_path: Path) -> None:
    """Without files nothing is sent; with --llm-record=once all is recorded but what fails; then
    all is replayed while the service is gone and the network is forbidden."""
    (tmp_path / "test_app.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nllm_forbid_network = true\n")

    found, said = run(tmp_path, service.base_url)
    assert service.requests == [], said
    assert found["test_one"] == "FAILED"
    assert "--llm-record" in said
    assert found["test_that_asks_nothing"] == found["test_forbidden"] == "PASSED"
    assert found["test_that_swallows"] == "ERROR"
    assert not (tmp_path / "recordings").exists()

    found, said = run(tmp_path, service.base_url, "--llm-record=once")
    assert {name for name, word in found.items() if word != "PASSED"} == {"test_that_fails"}, said
    assert len(service.requests) == 8
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.json"))
    assert "recordings/test_app/test_one.json" in files
    assert "elsewhere/shared.json" in files
    assert len([name for name in files if "TestMany.test_words" in name]) == 4
    assert len(files) == 7, files  # nothing of a test that failed, or asked nothing
    assert all(len(name) < 150 for name in files)

    url = service.base_url
    service.close()
    found, said = run(tmp_path, url, MAY_PASS="1")
    assert {name for name, word in found.items() if word != "PASSED"} == {"test_that_fails"}, said
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    found, said = run(tmp_path, url, "--llm-record=all", "-k", "test_one")
    assert found["test_one"] == "FAILED", said  # the service is gone
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.json")}


def test_odd_settings_are_refused(tmp_path: Path) -> None:
    """Before any test runs."""
    (tmp_path / "test_app.py").write_text("def test_nothing():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nllm_record = always\n")
    found, said = run(tmp_path, "http://127.0.0.1:9")
    assert found == {}
    assert "llm_record: use one of none, once, all" in said


@pytest.mark.slow
def test_options_of_a_module(service: LLMServer, tmp_path: Path) -> None:
    """The fixture llm_recording_options, below the marker; a mode of its own too."""
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n\n@pytest.fixture\ndef llm_recording_options():\n"
        "    return {'mode': 'once', 'match_on': ['path', 'body'], 'secrets': ['Anna']}\n"
    )
    (tmp_path / "test_app.py").write_text(TESTS.replace('"one"', '"I am Anna"'))
    found, said = run(tmp_path, service.base_url, "-k", "test_one")
    assert found == {"test_one": "PASSED"}, said
    (file,) = tmp_path.rglob("*.json")
    assert json.loads(file.read_text())["exchanges"][0]["request"]["body"]["input"] == "I am ***"
    found, said = run(tmp_path, "http://127.0.0.1:9/v1", "-k", "test_one")
    assert found == {"test_one": "PASSED"}, said
