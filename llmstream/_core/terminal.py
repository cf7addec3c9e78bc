"""What a terminal would obey instead of showing it, and how it is shown instead. Pure."""

from __future__ import annotations

__all__ = ["CONTROLS", "SHOWN", "for_terminal"]

# C0 without tab and newline, DEL, C1; and the characters that change the direction of the text
# around them, so that it reads as another one.
CONTROLS = (
    *(code for code in range(0x20) if chr(code) not in "\t\n"),
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in CONTROLS}


def for_terminal(text: str) -> str:
    """`text` with escapes in place of what a terminal would obey."""
    return text if text.isprintable() else text.translate(SHOWN)
