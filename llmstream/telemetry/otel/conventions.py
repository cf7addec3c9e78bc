"""The names, units and buckets of the GenAI semantic conventions, as data.

Two sets of names are in use: that of the conventions' last common release, and a newer one in a
repository of its own. What no convention has a name for is called `llmstream.*`.
"""

from __future__ import annotations

import os
from typing import Any

from msgspec import Struct

from ..._core.checks import shown
from ...errors import ConfigurationError

__all__ = [
    "NAMES",
    "OPERATION",
    "RUN",
    "TOOL",
    "Metric",
    "Names",
    "TokenMetric",
    "chosen_names",
]


class Metric(Struct, frozen=True, kw_only=True):
    """An instrument: a histogram with these bucket boundaries, or, without boundaries, a
    counter."""

    name: str
    unit: str
    description: str
    buckets: tuple[float, ...] = ()


class TokenMetric(Struct, frozen=True, kw_only=True):
    """An instrument that counts tokens.

    `counts` are the fields of Usage that it records, each with attributes of its own. With `zero`
    an unknown count is recorded as 0, otherwise it is not recorded. With `error` a failed call
    carries `error.type`.
    """

    metric: Metric
    counts: tuple[tuple[str, dict[str, str]], ...]
    zero: bool = False
    error: bool = False


class Names(Struct, frozen=True, kw_only=True):
    """One set of names.

    `unfinished` is the finish reason of an answer that did not end. `finish_in_message` is whether
    the finish reason is also in `gen_ai.output.messages`.
    """

    schema_url: str | None
    duration: Metric
    first_chunk: Metric
    per_chunk: Metric
    tokens: tuple[TokenMetric, ...]
    unfinished: str | None
    finish_in_message: bool


OPERATION = "chat"  # of the well-known values of gen_ai.operation.name the one for all three APIs

RUN = "invoke_agent"  # a run: answers of a model, and the calls of tools between them
TOOL = "execute_tool"

# gen-ai-metrics.md and client-inference.md, for each of these metrics: "This metric SHOULD be
# specified with ExplicitBucketBoundaries of ...".
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(float(4**power) for power in range(14))  # 1, 4, 16, ... 67108864

_FIRST_CHUNK = (
    "Time to receive the first chunk, measured from when the client issues the generation request "
    "to when the first chunk is received in the response stream."
)
_PER_CHUNK = (
    "Time per output chunk, recorded for each chunk received after the first one, measured as the "
    "time elapsed from the end of the previous chunk to the end of the current chunk."
)


def _seconds(name: str, description: str) -> Metric:
    return Metric(name=name, unit="s", description=description, buckets=_SECONDS)


def _usage(name: str, field: str, description: str) -> TokenMetric:
    # gen-ai-token-metrics.md: "SHOULD record this metric for each inference operation, including
    # failed ones [...] or `0` if the response was not received or did not contain token usage".
    # The modality is `unknown` where the provider does not break usage down.
    return TokenMetric(
        metric=Metric(
            name=f"gen_ai.client.inference.usage.{name}", unit="{token}", description=description
        ),
        counts=((field, {"gen_ai.token.modality": "unknown"}),),
        zero=True,
    )


def _per_operation(name: str, description: str) -> TokenMetric:
    return TokenMetric(
        metric=Metric(
            name=f"gen_ai.client.inference.operation.{name}",
            unit="{token}",
            description=description,
            buckets=_TOKENS,
        ),
        counts=((name, {}),),
        zero=True,
        error=True,
    )


NAMES: dict[str, Names] = {
    # github.com/open-telemetry/semantic-conventions v1.41.0, docs/gen-ai/gen-ai-metrics.md and
    # gen-ai-spans.md: the last version in that repository.
    "operation": Names(
        schema_url="https://opentelemetry.io/schemas/1.41.0",
        duration=_seconds("gen_ai.client.operation.duration", "GenAI operation duration."),
        first_chunk=_seconds("gen_ai.client.operation.time_to_first_chunk", _FIRST_CHUNK),
        per_chunk=_seconds("gen_ai.client.operation.time_per_output_chunk", _PER_CHUNK),
        tokens=(
            TokenMetric(
                metric=Metric(
                    name="gen_ai.client.token.usage",
                    unit="{token}",
                    description="Number of input and output tokens used.",
                    buckets=_TOKENS,
                ),
                counts=(
                    ("input_tokens", {"gen_ai.token.type": "input"}),
                    ("output_tokens", {"gen_ai.token.type": "output"}),
                ),
            ),
        ),
        unfinished=None,
        finish_in_message=True,
    ),
    # github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/client-inference.md and
    # gen-ai-token-metrics.md, in development (not released yet). Of its counters only
    # `usage.cache_write.input_tokens` is absent.
    "inference": Names(
        schema_url=None,
        duration=_seconds(
            "gen_ai.client.inference.duration", "GenAI client inference operation duration."
        ),
        first_chunk=_seconds("gen_ai.client.inference.time_to_first_chunk", _FIRST_CHUNK),
        per_chunk=_seconds("gen_ai.client.inference.time_per_output_chunk", _PER_CHUNK),
        tokens=(
            _usage(
                "input_tokens",
                "input_tokens",
                "The number of input (prompt) tokens used, including cached tokens.",
            ),
            _usage(
                "output_tokens",
                "output_tokens",
                "The number of output (completion) tokens used, including reasoning tokens.",
            ),
            _usage(
                "cache_read.input_tokens",
                "cached_tokens",
                "The number of input tokens served from a provider-managed cache.",
            ),
            _usage(
                "reasoning.output_tokens",
                "reasoning_tokens",
                "The number of output tokens used for reasoning (e.g. chain-of-thought, extended "
                "thinking).",
            ),
            _per_operation(
                "input_tokens",
                "The number of input (prompt) tokens used per inference operation.",
            ),
            _per_operation(
                "output_tokens",
                "The number of output (completion) tokens used per inference operation.",
            ),
        ),
        # client-inference.md [18]: "If a finish reason was expected but not received [...]
        # instrumentations SHOULD report `error`"
        unfinished="error",
        finish_in_message=False,  # "Deprecated: report [...] in gen_ai.response.finish_reasons"
    ),
}

# gen-ai-spans.md (v1.37 to v1.41): "`gen_ai_latest_experimental` - emit the latest experimental
# version of GenAI conventions (supported by the instrumentation)"
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_LATEST = "gen_ai_latest_experimental"


def chosen_names(names: Any) -> Names:
    """The set called `names`; for None the set that the environment opts in to. Raises
    ConfigurationError for an unknown name."""
    if names is None:
        opted = {word.strip() for word in os.environ.get(_OPT_IN, "").split(",")}
        names = "inference" if _LATEST in opted else "operation"
    found = NAMES.get(names) if isinstance(names, str) else None
    if found is None:
        raise ConfigurationError(f"names={shown(names)} is not known: give one of {list(NAMES)}")
    return found
