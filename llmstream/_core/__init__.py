"""The pure core: bytes, strings and numbers in, values out.

Nothing here imports a clock, a thread, a socket, random numbers, a logger or metrics. A test
(tests/test_architecture.py) proves it from the imports.
"""
