"""How long checks may take, in real seconds.

Read these as attributes of the module (`pace.LATE`), so that a change here is seen everywhere.
"""

from __future__ import annotations

__all__ = ["LATE", "PATIENCE", "TARGET"]

TARGET = 1.0  # how long a wait under test should take: clocks run faster to get there
LATE = 1.5  # how late anything may be on a busy machine
PATIENCE = 10.0  # how long a call may overrun its plan before it counts as a hang
