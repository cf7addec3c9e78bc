"""What the README of the benchmark claims."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import llmstream.bench
from llmstream.bench import FORMULAS, Load

README = Path(llmstream.bench.__file__).with_name("README.md")
PICTURE = README.parents[2] / "benchmarks" / "bench_picture.py"


def test_the_picture_is_current() -> None:
    """Run `python benchmarks/bench_picture.py` where this fails, and look at it."""
    drawn = runpy.run_path(str(PICTURE))
    assert "(../../benchmarks/pictures/stall.svg)" in README.read_text("utf-8")
    assert drawn["FILE"].read_text("utf-8") == drawn["picture"]()


def test_the_formulas_are_those_of_the_code() -> None:
    """Of each metric, in the same words up to the first remark."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README.read_text("utf-8"), re.MULTILINE))
    assert list(rows) == list(FORMULAS)
    for name, formula in FORMULAS.items():
        assert re.split(r"[;:]", rows[name])[0] in formula


def test_the_defaults_are_those_of_the_code() -> None:
    text = README.read_text("utf-8")
    load = Load()
    assert f"`--max-concurrency {load.max_concurrency}`" in text
    assert f"`--max-output-tokens {load.max_output_tokens}`" in text
    assert f"Default: {load.concurrency[0]} |" in text
