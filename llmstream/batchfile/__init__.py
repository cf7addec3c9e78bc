"""Files of prompts and of their answers, one JSON object a line: what `llmstream batch` reads and
writes, and how a later run goes on where an earlier one has ended. See README.md."""

from __future__ import annotations

from .output import DescriptorPipe, Output, OutputFile, Pipe, open_output
from .records import encode_outcome, read_head
from .rows import Row, parse_row
from .run import BatchRun
from .source import Source
from .summary import Summary

__all__ = [
    "BatchRun",
    "DescriptorPipe",
    "Output",
    "OutputFile",
    "Pipe",
    "Row",
    "Source",
    "Summary",
    "encode_outcome",
    "open_output",
    "parse_row",
    "read_head",
]
