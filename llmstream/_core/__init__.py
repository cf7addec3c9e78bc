"""The pure core: bytes, strings and numbers in, values out.

Nothing here imports a clock, thread, socket, random, logger or metrics; a test proves it.
"""
