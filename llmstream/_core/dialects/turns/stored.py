"""What a service knows by an id is not known to another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ConfigurationError

__all__ = ["refuse_file_id"]


def refuse_file_id(holder: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for a file that only the service knows which it was uploaded to:
    what a user has shown must not be missing from the prompt unnoticed."""
    if holder.get("file_id"):
        raise ConfigurationError(
            "prompt: it has a file by its file_id, which only the service knows that stores it: "
            "send the file's data, as a data: URL, to go on with another API"
        )
