"""Every public parameter times every odd value: a ConfigurationError that names the parameter, or a
call that is right. Nothing else is raised, nothing takes long, and no message is long."""

from __future__ import annotations

import gc
import time
from collections import Counter

import pytest
from odd_values import ODD, PARAMETERS, SKIPPED

from llmstream import ConfigurationError, LLMStreamError

pytestmark = [pytest.mark.attack, pytest.mark.timeout(400)]

LONGEST = 1.0  # seconds of CPU for one case
LONGEST_MESSAGE = 700  # characters


def test_every_parameter_times_every_odd_value(caplog: pytest.LogCaptureFixture) -> None:
    """The counts are printed: cases, refusals, calls that were made."""
    caplog.set_level("CRITICAL", "llmstream")
    counts: Counter[str] = Counter()
    faults = []
    for what, (name, use) in PARAMETERS.items():
        for odd, make in ODD.items():
            if (what, odd) in SKIPPED:
                continue
            value, begun = make(), time.process_time()
            gc.disable()  # its passes take as long as the heap is large that other tests have left
            try:
                use(value)
            except ConfigurationError as error:
                counts["refused"] += 1
                if not _explains(str(error), name):
                    faults.append((what, odd, str(error)[:200]))
            except LLMStreamError as error:
                counts[f"ended with {type(error).__name__}"] += 1
            except BaseException as error:
                faults.append((what, odd, f"{type(error).__name__}: {str(error)[:200]}"))
            else:
                counts["accepted"] += 1
            took = time.process_time() - begun
            gc.enable()
            if took > LONGEST:
                faults.append((what, odd, f"{took:.1f} s"))
    cases = len(PARAMETERS) * len(ODD) - len(SKIPPED)
    print(f"\n{len(PARAMETERS)} parameters, {len(ODD)} values, {cases} cases: {dict(counts)}")
    assert faults == [], "\n".join(map(str, faults))
    assert cases > 10_000
    assert counts["refused"] > cases * 0.8


def _explains(message: str, name: str) -> bool:
    """Whether the message names the parameter. (Where an odd value is a right one, another mistake
    may follow: no service, no model, no file.)"""
    others = ("no service is configured", "no API key", "model file cannot be read", "model needs")
    return len(message) <= LONGEST_MESSAGE and (
        name in message or any(words in message for words in others)
    )
