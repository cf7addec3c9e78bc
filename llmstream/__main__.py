"""`python -m llmstream` is the command `llmstream`."""

import sys

try:
    from .cli import main

    code = main()
except KeyboardInterrupt:  # while it is imported, or between two lines
    code = 130
sys.exit(code)
