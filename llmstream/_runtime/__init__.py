"""Time and threads: the floor that reads the clock, makes threads and locks, and handles a fork.

No other part of a call imports `time` or `threading`; a test (tests/test_architecture.py) proves
it. This floor knows only the values and the pure core.
"""
