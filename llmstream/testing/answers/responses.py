"""An `Answer` as the Responses API streams it.

Source: the API reference "Streaming events" of Responses, and recordings of the live service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..._core.dialects import APIS
from .base import Answer, Encoding, Event, ToolCallSpec, register

__all__ = ["encode_responses"]

# finish -> the status of the response, the reason given when it is incomplete
_ENDS = {
    "stop": ("completed", None),
    "tool_calls": ("completed", None),
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
}


class _Stream:
    """The events of one stream while they are collected, their numbers, and the output so far."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.events: list[Event] = []
        self.output: list[dict[str, Any]] = []

    def add(self, event: str, **fields: Any) -> None:
        payload = {"type": event, "sequence_number": len(self.events), **fields}
        self.events.append((event, payload))

    def add_response(self, event: str, status: str, **fields: Any) -> None:
        """An event that carries the whole response: the first two and the last."""
        answer = self.answer
        response = {
            "id": answer.response_id,
            "object": "response",
            "created_at": answer.created_at,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": None,
            "model": answer.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": True,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": None,
            "user": None,
            "metadata": {},
            **fields,
        }
        self.add(event, response=response)


class _Item:
    """One output item: how it is announced, filled, and finished.

    `open` sends everything up to the last delta; `close` sends the rest. An answer that fails
    half-way opens its last item and never closes it.
    """

    kind: ClassVar[str]
    id_prefix: ClassVar[str]
    has_status: ClassVar[bool] = True

    def __init__(self, stream: _Stream, index: int) -> None:
        self.stream = stream
        self.index = index
        self.id = f"{self.id_prefix}_test_{index}"

    def body(self, filled: bool) -> dict[str, Any]:
        """The item's own fields, empty as announced or filled as finished."""
        raise NotImplementedError

    def fill(self) -> None:
        """The events up to the last delta."""
        raise NotImplementedError

    def finish(self) -> None:
        """The events between the last delta and the end of the item."""
        raise NotImplementedError

    def item(self, status: str, filled: bool) -> dict[str, Any]:
        shown = {"status": status} if self.has_status else {}
        return {"id": self.id, "type": self.kind, **shown, **self.body(filled)}

    def add(self, event: str, **fields: Any) -> None:
        self.stream.add(event, item_id=self.id, output_index=self.index, **fields)

    def open(self) -> None:
        item = self.item("in_progress", filled=False)
        self.stream.add("response.output_item.added", output_index=self.index, item=item)
        self.fill()

    def close(self, status: str) -> None:
        self.finish()
        item = self.item(status, filled=True)
        self.stream.add("response.output_item.done", output_index=self.index, item=item)
        self.stream.output.append(item)


class _Reasoning(_Item):
    kind = "reasoning"
    id_prefix = "rs"
    has_status = False  # a reasoning item of the live service does not have one

    def part(self, filled: bool) -> dict[str, str]:
        text = "".join(self.stream.answer.thinking_deltas) if filled else ""
        return {"type": "summary_text", "text": text}

    def body(self, filled: bool) -> dict[str, Any]:
        return {"summary": [self.part(True)] if filled else []}

    def fill(self) -> None:
        part = self.part(False)
        self.add("response.reasoning_summary_part.added", summary_index=0, part=part)
        for delta in self.stream.answer.thinking_deltas:
            self.add("response.reasoning_summary_text.delta", summary_index=0, delta=delta)

    def finish(self) -> None:
        part = self.part(True)
        self.add("response.reasoning_summary_text.done", summary_index=0, text=part["text"])
        self.add("response.reasoning_summary_part.done", summary_index=0, part=part)


class _Message(_Item):
    kind = "message"
    id_prefix = "msg"

    def parts(self) -> list[tuple[str, list[str]]]:
        """`(kind of part, its deltas)`; a message without content has one empty text part."""
        answer = self.stream.answer
        given = [("output_text", answer.text_deltas), ("refusal", answer.refusal_deltas)]
        return [part for part in given if part[1]] or given[:1]

    def body(self, filled: bool) -> dict[str, Any]:
        parts = self.parts() if filled else []
        content = [self.part(kind, "".join(deltas)) for kind, deltas in parts]
        return {"role": "assistant", "content": content}

    @staticmethod
    def part(kind: str, text: str) -> dict[str, Any]:
        if kind == "refusal":
            return {"type": kind, "refusal": text}
        return {"type": kind, "annotations": [], "logprobs": [], "text": text}

    def fill(self) -> None:
        parts = self.parts()
        for index, (kind, deltas) in enumerate(parts):
            if index:
                self.finish_part(index - 1, *parts[index - 1])
            part = self.part(kind, "")
            self.add("response.content_part.added", content_index=index, part=part)
            extra = self.extra(kind)
            for delta in deltas:
                self.add(f"response.{kind}.delta", content_index=index, delta=delta, **extra)

    def finish(self) -> None:
        parts = self.parts()
        self.finish_part(len(parts) - 1, *parts[-1])

    def finish_part(self, index: int, kind: str, deltas: list[str]) -> None:
        whole = "".join(deltas)
        field = {"refusal": "refusal"}.get(kind, "text")
        extra = self.extra(kind)
        self.add(f"response.{kind}.done", content_index=index, **{field: whole}, **extra)
        part = self.part(kind, whole)
        self.add("response.content_part.done", content_index=index, part=part)

    @staticmethod
    def extra(kind: str) -> dict[str, Any]:
        return {"logprobs": []} if kind == "output_text" else {}


class _FunctionCall(_Item):
    kind = "function_call"
    id_prefix = "fc"

    def __init__(self, stream: _Stream, index: int, call: ToolCallSpec) -> None:
        super().__init__(stream, index)
        self.call = call

    def body(self, filled: bool) -> dict[str, Any]:
        name, arguments, call_id = self.call
        return {"arguments": arguments if filled else "", "call_id": call_id, "name": name}

    def fill(self) -> None:
        for delta in self.call.deltas:
            self.add("response.function_call_arguments.delta", delta=delta)

    def finish(self) -> None:
        self.add("response.function_call_arguments.done", arguments=self.call.arguments)


def _items(stream: _Stream) -> list[_Item]:
    """The items of the answer, in the order in which the service sends them."""
    answer = stream.answer
    items: list[_Item] = []
    if answer.thinking_deltas:
        items.append(_Reasoning(stream, 0))
    says_something = bool(answer.text_deltas or answer.refusal_deltas)
    says_nothing_else = not (items or answer.tool_calls or answer.error is not None)
    if says_something or says_nothing_else:
        items.append(_Message(stream, len(items)))
    for call in answer.calls:
        items.append(_FunctionCall(stream, len(items), call))
    return items


def _usage(answer: Answer) -> dict[str, Any] | None:
    counts = answer.token_counts
    if counts is None:
        return None
    prompt, output, cached, reasoning = counts
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + output,
    }


def _end(stream: _Stream) -> None:
    answer = stream.answer
    status, reason = _ENDS[answer.finish]
    stream.add_response(
        f"response.{status}",
        status,
        output=stream.output,
        incomplete_details=None if reason is None else {"reason": reason},
        usage=_usage(answer),
    )


def _fail(stream: _Stream, error: Mapping[str, Any]) -> None:
    """In the live service's order: the error as an event of its own, then the failed response."""
    fields = {"type": None, "code": None, "message": "a scripted error", "param": None, **error}
    stream.add("error", error=fields)
    shown = {"code": fields["code"], "message": fields["message"]}
    stream.add_response("response.failed", "failed", error=shown)


def encode_responses(answer: Answer) -> list[Event]:
    """The answer as the events of `POST /responses` with `stream: true`."""
    stream = _Stream(answer)
    stream.add_response("response.created", "in_progress")
    stream.add_response("response.in_progress", "in_progress")
    items = _items(stream)
    status = _ENDS[answer.finish][0]
    for item in items:
        item.open()
        last = item is items[-1]
        if not (last and answer.error is not None):
            item.close(status if last else "completed")
    if answer.error is None:
        _end(stream)
    else:
        _fail(stream, answer.error)
    return stream.events


register(
    Encoding(
        api="responses",
        path="/responses",
        base_path=APIS["responses"].base_path,
        prompt_field="input",
        encode=encode_responses,
    )
)
