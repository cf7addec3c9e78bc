"""The cost of a call, as the service reports it or by the price list of genai-prices (extra
`cost`), and a limit to the cost.

    result.cost()                         # Cost(amount=Decimal('0.001065'), ...) or None
    Client(max_cost=5)                    # refuses further calls once 5 USD are known to be spent

A cost that the service reports beside the usage (OpenRouter, LiteLLM, Perplexity, xAI) comes first,
and needs no list. An attempt without one is priced by the list where that is installed.

The list is part of that package; nothing is fetched. The cost is by list price: the service's bill
also has discounts, taxes, regional fees, and what is not counted in tokens (searches, tools,
storage). Nothing is guessed. The cost is None where it is not known:

- The service reported no usage, or not all that the price needs (for example the number of cached
  tokens, where they have a price of their own). Gemini leaves out counts that are 0.
- The service is not in the list. It is identified by its host: a local server or a proxy of your
  own is unknown, whatever its models are called. Or the model that it reports is not in the list.
- The service used a tier ("priority", "flex") for which the list has no price.
- It counted tokens of pictures, sound or video, and these have a price of their own.
- The reported sums contradict each other.

How tokens are counted: in Responses and Chat Completions `cached_tokens` and `cache_write_tokens`
are part of `input_tokens`, in Messages they are in addition to them. `reasoning_tokens` are part of
`output_tokens`, except for services whose total shows that they are in addition (xAI, Gemini).
"""

from __future__ import annotations

import logging
import math
import re
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from .._core.checks import shown
from .._core.dialects import APIS
from .._core.phase import Phase
from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.fork import renew_in_child
from .._runtime.threads import RLock
from ..errors import ConfigurationError
from ..result import Attempt, Cost, Result, Usage
from .records import CallRecord, RequestContent

__all__ = ["CostLimit", "cost_of"]

logger = logging.getLogger("llmstream")


def cost_of(api: str, host: str, result: Result, at: float | None = None) -> Cost | None:
    """The cost of all attempts of `result` whose cost is known; None where none is.

    Args:
        api: "responses", "messages", "chat" or "gemini".
        host: the service that answered.
        result: of a call, or the `.partial` of its error.
        at: the Unix time of the call in seconds. Default: now.

    Raises ConfigurationError without the extra `cost`. Thread-safe.
    """
    when = datetime.fromtimestamp(SYSTEM_CLOCK.time() if at is None else at, timezone.utc)
    if any(map(_has_reported, result.attempts)):
        return _reported_cost(api, host, result, when)
    prices = price_list()
    known = []
    lower_bound = False
    for attempt in result.attempts:
        price = _price(prices, api, host, result.model, attempt, when)
        if price is None:
            lower_bound |= _may_be_billed(attempt)
        else:
            known.append(price)
            lower_bound |= not _is_whole(price, attempt)
    if not known:
        return None
    first = known[0]
    return Cost(
        amount=sum((price.total_price for price in known), Decimal(0)),
        input=sum((price.input_price for price in known), Decimal(0)),
        output=sum((price.output_price for price in known), Decimal(0)),
        provider=first.provider.id,
        model=first.model.id,
        as_of=when.date(),
        since=_since(first.model, when),
        source=_source(prices, first),
        url=next(iter(first.provider.pricing_urls or ()), None),
        lower_bound=lower_bound,
    )


def _reported(attempt: Attempt) -> Decimal | None:
    cost = attempt.usage.cost if attempt.usage is not None else None
    return None if cost is None else Decimal(str(cost))


def _has_reported(attempt: Attempt) -> bool:
    return _reported(attempt) is not None


def _reported_cost(api: str, host: str, result: Result, when: datetime) -> Cost:
    """The cost that the service reported. An attempt for which it reported none counts by the price
    list, where that is installed and has a price."""
    prices = _installed()
    amount = Decimal(0)
    lower_bound = False
    for attempt in result.attempts:
        reported = _reported(attempt)
        if reported is not None:
            amount += reported
            lower_bound |= attempt.error is not None
            continue
        price = _price(prices, api, host, result.model, attempt, when) if prices else None
        if price is None:
            lower_bound |= _may_be_billed(attempt)
        else:
            amount += price.total_price
            lower_bound |= not _is_whole(price, attempt)
    return Cost(
        amount=amount,
        input=None,
        output=None,
        provider=host,
        model=result.model or "",
        as_of=when.date(),
        source=f"reported by {host}",
        lower_bound=lower_bound,
    )


def _installed() -> Any:
    """The price list, or None without the extra `cost`."""
    try:
        import genai_prices
    except ImportError:
        return None
    return genai_prices


def price_list() -> Any:
    """The price list. Raises ConfigurationError without the extra `cost`."""
    prices = _installed()
    if prices is None:
        raise ConfigurationError(
            "the cost of a call needs a price list. Install it with: "
            'pip install "llmstream-sync[cost]"'
        )
    return prices


def _source(prices: Any, price: Any) -> str:
    updated = price.auto_update_timestamp  # only an application updates the list, never this module
    version = f"genai-prices {prices.__version__}"
    return version if updated is None else f"{version}, updated {updated:%Y-%m-%d}"


def _since(model: Any, when: datetime) -> date | None:
    """The first day of the price that holds at that time; None where the list has no days."""
    if not isinstance(model.prices, list):
        return None
    for conditional in reversed(model.prices):  # genai-prices takes the last that holds
        constraint = conditional.constraint
        if constraint is None or constraint.active(when):
            since: date | None = getattr(constraint, "start_date", None)
            return since
    return None


# ---- one attempt ---------------------------------------------------------------------------------

# A price of the list -> the count that it needs.
_NEEDED = {
    "input_mtok": "input_tokens",
    "output_mtok": "output_tokens",
    "cache_read_mtok": "cached_tokens",
    "cache_write_mtok": "cache_write_tokens",
    "output_reasoning_mtok": "reasoning_tokens",
}
# Tiers that are billed at the standard price.
_STANDARD = {None, "auto", "default", "standard", "on_demand"}
# Providers in the list that run their customers' own models.
_OWN_MODELS = {"modal"}


def _price(
    prices: Any, api: str, host: str, model: str | None, attempt: Attempt, when: datetime
) -> Any:
    """The PriceCalculation of genai-prices for an attempt; None where there is none."""
    usage = attempt.usage
    if usage is not None and APIS[api].omits_zeros and usage.output_tokens is None:
        usage = msgspec.structs.replace(usage, output_tokens=0)
    if model is None or usage is None or None in (usage.input_tokens, usage.output_tokens):
        return None
    asked = {
        "model_ref": model,
        "provider_api_url": f"https://{host}/",
        "genai_request_timestamp": when,
    }
    try:
        found = prices.calc_price(prices.Usage(), **asked)
        if not _is_at(found.provider, host) or not _is_countable(api, found, usage):
            return None
        if any(_has_own_price(found.model_price, medium) for medium in attempt.media):
            return None
        if attempt.service_tier not in _STANDARD:
            context = {"service_tier": attempt.service_tier}
            variants = getattr(found.model, "price_variants", None) or ()
            if not any(variant.when == context for variant in variants):
                return None
            asked["price_context"] = context
        counts = _counts(api, usage, found.model_price)
        return None if counts is None else prices.calc_price(prices.Usage(**counts), **asked)
    except (LookupError, ValueError):  # not in the list; counts that contradict each other
        return None


def _is_at(provider: Any, host: str) -> bool:
    """Whether the provider's pattern matches the whole host. The list's patterns match a beginning,
    and api.openai.com.example.org is not OpenAI."""
    url = f"https://{host}/"
    match = re.match(provider.api_pattern, url)
    whole = match is not None and match.end() in (len(url) - 1, len(url))
    return whole and provider.id not in _OWN_MODELS


def _is_countable(api: str, found: Any, usage: Usage) -> bool:
    """Whether the list has prices, and the usage has the counts that they need."""
    priced = [key for key in _NEEDED if getattr(found.model_price, key, None) is not None]
    if not {"input_mtok", "output_mtok"} <= set(priced):
        return False
    if found.provider.id == APIS[api].vendor and APIS[api].omits_zeros:
        return True
    if APIS[api].cached_beside and found.provider.id != APIS[api].vendor:
        return False  # how other services count in this API is not known
    return all(getattr(usage, _NEEDED[key]) is not None for key in priced)


def _has_own_price(price: Any, medium: str) -> bool:
    """Whether tokens of a medium do not cost what tokens of text cost. How many there are of them
    is not kept."""
    names = (f"input_{medium}_mtok", f"output_{medium}_mtok", f"cache_{medium}_read_mtok")
    return any(getattr(price, name, None) is not None for name in names)


def _counts(api: str, usage: Usage, price: Any) -> dict[str, int] | None:
    """The usage as genai-prices counts, where cached and reasoning tokens are part of the whole.
    None where the reported sums contradict each other."""
    read, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    input_tokens, output_tokens = usage.input_tokens or 0, usage.output_tokens or 0
    reasoning = usage.reasoning_tokens or 0
    if APIS[api].cached_beside:
        input_tokens += read + written
    elif usage.total_tokens is not None:
        beside = usage.total_tokens - input_tokens - output_tokens
        if beside not in (0, reasoning):
            return None
        output_tokens += beside
    counts = {
        "input_tokens": input_tokens,
        "cache_read_tokens": read,
        "cache_write_tokens": written,
        "output_tokens": output_tokens,
    }
    if getattr(price, "output_reasoning_mtok", None) is not None:
        counts["output_reasoning_tokens"] = reasoning
    return counts


def _may_be_billed(attempt: Attempt) -> bool:
    """Whether the service may have begun to work: not where it refused the request, or did not
    receive it."""
    if attempt.error is None:
        return True
    if attempt.resent or attempt.phase in (Phase.CONNECT, Phase.TLS):
        return False
    return attempt.status is None or 200 <= attempt.status < 300


def _is_whole(price: Any, attempt: Attempt) -> bool:
    """Whether this is the whole price. An attempt that was cut has reported less than is billed.
    Tokens written to a cache cost more if the cache is kept for an hour, which the usage does not
    show."""
    written = attempt.usage.cache_write_tokens if attempt.usage is not None else None
    longer = getattr(price.model_price, "cache_write_1h_mtok", None)
    return attempt.error is None and not (written and longer is not None)


_MOST_USD = 10**12
_LONGEST_LIMIT = 40  # characters

# ---- a limit -------------------------------------------------------------------------------------


class CostLimit:
    """Adds up the known cost of a client's calls. An observer of the client. Thread-safe, and
    usable after a fork.

    Args:
        limit: USD (int, float, str or Decimal), greater than 0 and at most 10**12. Infinity: only
            add up.
        reported: whether the service reports the cost of every answer, so that the limit holds
            without a price list.

    Raises ConfigurationError for another limit, and, unless `reported`, without the extra `cost`:
    then no cost would be known, and the limit would limit nothing. `spent` is the known cost so far
    in USD.
    """

    def __init__(self, limit: Any, *, reported: bool = False) -> None:
        self.limit = _checked(limit)
        if not reported:
            self.need_prices()
        self._lock = RLock()  # guards spent and _counted
        renew_in_child(self, _lock=RLock)
        self.spent = Decimal(0)
        self._counted: frozenset[int] = frozenset()  # calls that are counted, and not yet ended
        self._has_warned = False

    def need_prices(self) -> None:
        """Raises ConfigurationError without the extra `cost`."""
        if _installed() is None:
            raise ConfigurationError(
                "max_cost: the cost of a call needs a price list, unless the service reports it "
                "(OpenRouter, Perplexity and xAI do). Install it with: "
                'pip install "llmstream-sync[cost]"'
            )

    def on_content(self, call: CallRecord, request: RequestContent, result: Result) -> None:
        is_known = _installed() is not None or any(map(_has_reported, result.attempts))
        cost = cost_of(call.api, call.host, result, call.started) if is_known else None
        if cost is not None:
            with self._lock:
                if call.id not in self._counted:  # told again after an interrupt
                    counted = self._counted | {call.id}
                    # Together: no interrupt comes in between.
                    self.spent, self._counted = self.spent + cost.amount, counted
        elif result.attempts and result.attempts[-1].error is None and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "max_cost: the cost of the model %r at %s is not known and not counted (this is "
                "logged once)",
                result.model or call.model,
                call.host,
            )

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        with self._lock:
            self._counted -= {call.id}

    def check(self) -> None:
        """Raises ConfigurationError once the limit is reached."""
        if self.spent >= self.limit:
            raise ConfigurationError(
                f"max_cost: the calls of this client have cost at least {self.spent:f} USD, "
                f"and the limit is {self.limit:f} USD; nothing was sent. Make a new client to go on"
            )


def _checked(limit: Any) -> Decimal:
    try:
        if isinstance(limit, bool) or not isinstance(limit, (int, float, str, Decimal)):
            raise ValueError
        if isinstance(limit, str) and len(limit) > _LONGEST_LIMIT:
            raise ValueError
        # By way of the text, so that 0.1 is 0.1.
        amount = Decimal(str(limit) if isinstance(limit, float) else limit)
        if math.isnan(amount) or not (0 < amount <= _MOST_USD or amount == math.inf):
            raise ValueError
    except (InvalidOperation, ValueError):
        raise ConfigurationError(
            f"max_cost={shown(limit)}: give an amount of USD greater than 0 and at most "
            f"{_MOST_USD:,}, or infinity to count only"
        ) from None
    return amount
