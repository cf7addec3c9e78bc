"""The command `llmstream`: one prompt in, tokens out as they are received.

`llmstream --help` lists the commands and the exit codes. An error is one sentence on stderr; what
was received before it stays on stdout.
"""

from __future__ import annotations

from .exit_codes import EXIT_CODES
from .program import COMMANDS, main

__all__ = ["COMMANDS", "EXIT_CODES", "main"]
