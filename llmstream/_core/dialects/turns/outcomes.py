"""What became of the calls of a turn, in the form that every API reads."""

from __future__ import annotations

from typing import Any

from ...outcome import Approval, ToolOutcome

__all__ = ["approval_item", "outcome_turn"]


def outcome_turn(outcome: ToolOutcome) -> dict[str, Any]:
    """The output of a call, in the form of `ToolCall.result`."""
    call = outcome.call
    turn: dict[str, Any] = {"role": "tool", "tool_call_id": call.id, "content": outcome.output}
    if outcome.is_error:
        turn["is_error"] = True
    if call.custom:
        turn["custom"] = True
    return turn


def approval_item(approval: Approval) -> dict[str, Any]:
    """An item of the Responses API."""
    answer = {"approval_request_id": approval.request.id, "approve": approval.approve}
    reason = {"reason": approval.reason} if approval.reason else {}
    return {"type": "mcp_approval_response", **answer, **reason}
