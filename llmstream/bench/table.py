"""The figures of a benchmark as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from .document import PERCENTILES
from .level import LevelReport
from .load import Load
from .statistics import FORMULAS, Distribution, Goodput

__all__ = ["closing_text", "heading", "level_text"]

_WIDTH = 79
_COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")
_ALWAYS = ("ttft", "itl", "tpot", "e2e")  # other metrics are shown where they say something more
_NONE = "-"
_LONGEST = 160  # characters of an error's message


def heading(about: Mapping[str, str], load: Load) -> str:
    """What is measured, and how."""
    tokens = load.max_output_tokens
    answer = "answers of any length" if tokens is None else f"answers of at most {tokens} tokens"
    if load.prompts is not None:
        asked = f"{len(load.prompts)} prompts in turn"
    else:
        asked = f"made prompts of {', '.join(map(str, load.prompt_words))} words"
    loop = "closed loop"
    if load.open:
        loop = "open loop, evenly spaced" if load.constant else "open loop, Poisson arrivals"
    return (
        f"llmstream bench: {about['model']} at {about['host']} ({about['api']})\n"
        f"{loop}; {asked}, {answer}; seed {load.seed}\n"
    )


def level_text(level: LevelReport) -> str:
    """The figures of one level."""
    lines = [
        "",
        f"{level.name}: {_requests(level)} in {level.seconds:.2f} s",
        *_table(level),
        _throughput(level),
    ]
    if level.goodput is not None:
        lines.append(_goodput(level.goodput))
    if level.retries:
        lines.append(f"retries: {level.retries} ({_counts(level.retried)})")
    for error, count in level.errors.items():
        words = textwrap.shorten(level.examples.get(error, ""), _LONGEST, placeholder=" ...")
        lines.append(f"{count} x {error}: {words}")
    if level.warmup_failed:
        lines.append(f"{level.warmup_failed} of {level.warmup} warm-up requests failed")
    lines += [f"! {note}" for note in level.notes]
    return "\n".join(lines) + "\n"


def closing_text(reports: Sequence[LevelReport]) -> str:
    """The levels beside each other, and what the words mean."""
    parts = _comparison(reports) if len(reports) > 1 else []
    shown = {name for level in reports for name in _shown(level)}
    parts += ["", "Times in ms, of the requests that were answered."]
    parts += [_wrapped(f"{name}: {FORMULAS[name]}") for name in FORMULAS if name in shown]
    parts.append(
        _wrapped(
            "scheduled start: open loop: the moment when the request was due; closed loop: when "
            "its stream was free to ask again"
        )
    )
    parts.append(_wrapped("tokens: as the service reports them (usage), else chunks"))
    parts.append(_wrapped(f"percentiles: {PERCENTILES}"))
    return "\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _requests(level: LevelReport) -> str:
    parts = [f"{level.ok} of {level.requests} requests answered"]
    if level.failed:
        parts.append(f"{level.failed} failed")
    if level.unsent:
        parts.append(f"{level.unsent} not sent")
    if level.interrupted:
        parts.append(f"{level.interrupted} interrupted")
    if level.rate is not None:
        parts.append(f"at most {level.most_at_once} at once")
    return ", ".join(parts)


def _shown(level: LevelReport) -> list[str]:
    """The metrics that are shown."""
    found = level.distributions
    return [
        name
        for name in FORMULAS
        if name in _ALWAYS
        or (name == "ttfo" and found["ttfo"] != found["ttft"])
        or (name == "dispatch" and level.rate is not None)
        or (name == "failed_after" and level.failed)
    ]


def _table(level: LevelReport) -> list[str]:
    head = f"  {'':<12}" + "".join(f"{name:>10}" for name in _COLUMNS) + f"{'n':>9}"
    rows = [
        f"  {name:<12}"
        + "".join(f"{_ms(getattr(found, column)):>10}" for column in _COLUMNS)
        + f"{found.count:>9}"
        for name in _shown(level)
        for found in [level.distributions[name]]
    ]
    return [head, *rows]


def _ms(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _number(value: float | None, digits: int = 2) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def _throughput(level: LevelReport) -> str:
    text = (
        f"throughput: {_number(level.requests_per_second)} requests/s, "
        f"{_number(level.output_tokens_per_second, 1)} tokens/s, "
        f"{_number(level.tokens_per_second_per_stream, 1)} tokens/s per stream"
    )
    if level.ok:
        tokens = f"{level.output_tokens:,} out ({level.tokens_from})"
        if level.input_tokens is not None:
            tokens += f", {level.input_tokens:,} in"
        text += f"; tokens: {tokens}"
    return f"{text}; {_bytes(level.received)} received"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"


def _goodput(found: Goodput) -> str:
    limits = ", ".join(f"{name} <= {limit:g} ms" for name, limit in found.limits.items())
    share = _NONE if found.share is None else f"{found.share:.1%}"
    return (
        f"goodput: {_number(found.requests_per_second)} requests/s, {share} of all requests "
        f"({limits})"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def _comparison(reports: Sequence[LevelReport]) -> list[str]:
    """A row for each level."""
    heads = ["req/s", "tok/s", "ttft p50", "ttft p99", "tpot p50", "tpot p99", "e2e p50", "e2e p99"]
    width = max(len(level.name) for level in reports) + 2
    lines = ["", "  " + " " * width + "".join(f"{head:>10}" for head in heads) + f"{'failed':>8}"]
    for level in reports:
        cells = [_number(level.requests_per_second), _number(level.output_tokens_per_second, 1)]
        for metric in ("ttft", "tpot", "e2e"):
            found: Distribution = level.distributions[metric]
            cells += [_ms(found.p50), _ms(found.p99)]
        row = "".join(f"{cell:>10}" for cell in cells)
        lines.append(f"  {level.name:<{width}}{row}{level.failed + level.unsent:>8}")
    return lines
