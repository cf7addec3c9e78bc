"""Whose settings are checked: those of a client, or of the command's options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from checking import FAST, KEY, command

from llmstream import Client, ConfigurationError, RetryPolicy, Timeouts
from llmstream.check import CHECKS, CheckSettings, load_client, settings_from, settings_of
from llmstream.check.scenario import Scenario

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_a_client_brings_its_settings() -> None:
    """All but address, key and headers."""
    client = Client(
        "chat",
        base_url="https://api.mistral.ai/v1",
        api_key=KEY,
        model="m1",
        headers={"x-secret": KEY},
        timeouts=Timeouts(total=45),
        retry=FAST,
        max_event_bytes=1000,
    )
    settings = settings_of(client)
    assert settings == CheckSettings(
        api="chat",
        timeouts=Timeouts(total=45),
        retry=FAST,
        profile="mistral",
        model="m1",
        max_event_bytes=1000,
    )
    assert KEY not in repr(settings)


def test_the_real_key_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault server receives another key, and neither the client's headers nor a prompt."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LLMSTREAM_API_KEY", KEY)
    client = Client("responses", headers={"x-secret": KEY}, api_key=KEY)
    with Scenario(settings_of(client)) as scenario:
        assert scenario.play().whole
        (request,) = scenario.server.requests
    assert request.headers["authorization"].startswith("Bearer not-a-key-")
    assert KEY not in f"{dict(request.headers)} {request.body!r}"


MODULE = f"""
from llmstream import Client, RetryPolicy, Timeouts
class settings:
    good = Client(base_url="https://example.com/v1", api_key="{KEY}")
def bad():
    return Client(
        base_url="https://example.com/v1",
        api_key="{KEY}",
        timeouts=Timeouts(idle=None, total=None),
    )
number = 7
def broken():
    return 1 / 0
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module with clients in the current directory."""
    name = f"check_settings_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_client_is_found_by_its_name(module: str) -> None:
    """An object, or a function that returns one; the module path is as it was."""
    path = list(sys.path)
    assert repr(load_client(f"{module}:settings.good")).startswith("Client('responses'")
    assert load_client(f"{module}:bad").settings.timeouts.idle is None
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{module}", "write it like 'myapp.settings:client'"),
        ("{module}:", "write it like"),
        ("{module}:nothing", "AttributeError"),
        ("{module}:number", "an object of type int"),
        ("{module}:broken", "ZeroDivisionError"),
        ("no_such_module_here:client", "ModuleNotFoundError"),
    ],
)
def test_a_client_that_cannot_be_loaded(module: str, name: str, says: str) -> None:
    """One sentence that says why."""
    with pytest.raises(ConfigurationError) as caught:
        settings_from({"client": name.format(module=module)})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# Without `idle` and `total` nothing ends pings, nor with silence="auto" a service that sends none.
UNBOUNDED = ["pings in mid-answer", "silence in mid-answer"]


@pytest.mark.slow
def test_json_and_a_client_with_a_hole(module: str, tmp_path: Path) -> None:
    """--client and --json: the failed check is named, the exit code is 1, no key is shown."""
    done = command("--client", f"{module}:bad", "--json", cwd=tmp_path)
    *lines, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (1, "")
    assert [line["name"] for line in lines] == list(CHECKS)
    for line in lines:
        assert {"name", "ok", "status", "expected", "seen", "seconds", "figures"} == line.keys()
        assert line["ok"] == (line["name"] not in UNBOUNDED), line
    assert summary["failed"] == UNBOUNDED
    assert (summary["summary"], summary["ok"], summary["checks"]) == (True, False, len(CHECKS))
    assert summary["settings"]["timeouts"]["idle"] is None
    assert KEY not in done.stdout


def test_options_are_settings() -> None:
    """Numbers, "off", and the defaults for what is not given."""
    settings = settings_from(
        {"api": "chat", "idle": 7.0, "first_token": "off", "max_attempts": 2, "json": True}
    )
    assert settings == CheckSettings(
        api="chat",
        timeouts=Timeouts(idle=7.0, first_token=None),
        retry=RetryPolicy(max_attempts=2),
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"idle": -1.0}, "greater than 0"),
        ({"max_attempts": 0}, "give 1 for no retry"),
        ({"on_disconnect": "hope"}, "on_disconnect='hope'"),
        ({"profile": "nobody"}, "profile='nobody'"),
        ({"client": "a:b", "max_retry_after": 3.0}, "leave --max-retry-after out"),
    ],
)
def test_a_mistake_is_a_configuration_error(options: dict[str, Any], says: str) -> None:
    """Settings that cannot work are reported before anything runs."""
    with pytest.raises(ConfigurationError) as caught:
        settings_from(options)
    assert says in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--idle", "soon"], "'soon' is neither seconds nor 'off'"),
        (["--total", "0"], "greater than 0"),
    ],
)
def test_a_mistake_exits_with_2_in_one_sentence(arguments: list[str], says: str) -> None:
    """The command reports it before any check runs."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
