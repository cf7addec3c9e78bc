"""`python -m llmstream` is the command `llmstream`."""

import sys

from .cli import main

sys.exit(main())
