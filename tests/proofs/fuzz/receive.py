"""The fuzz target: bytes of a body, in any pieces, through a session of each API.

    pip install -e ".[fuzz]"
    python tests/proofs/fuzz/receive.py -max_total_time=60 [CORPUS]

takes libFuzzer's options. The seeds (`seeds.py`) are added to the corpus; new inputs are kept in
CORPUS where one is given. An input that breaks a promise is written to `crash-...`, or where
`-artifact_prefix` says; give the file as the only argument to run it again.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[2])]
MAX_LEN = 8192

# Coverage of the library's own code guides the search; only a program of its own is instrumented.
_guided = (
    atheris.instrument_imports(include=["llmstream._core", "llmstream.events"])
    if __name__ == "__main__"
    else contextlib.nullcontext()
)
with _guided:
    import mutate
    import oracle
    import seeds


def one_input(data: bytes) -> None:
    """Raises where a promise is broken."""
    oracle.check(oracle.Case.of(data))


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutation half of the time, else damage that keeps the form of a stream."""
    rng = random.Random(seed)
    body = data[4:]
    if rng.random() < 0.5 or not body:
        return atheris.Mutate(data, max_size)
    ops = mutate.random_ops(rng, rng.randint(1, 4))
    found = data[:4] + b"".join(mutate.damaged(mutate.blocks_of(body), ops))
    return found[:max_size]


def main(argv: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    with tempfile.TemporaryDirectory() as made:
        corpus = Path(made, "seeds")
        files = [each for each in argv[1:] if not each.startswith("-")]
        options = ["-timeout=20", f"-max_len={MAX_LEN}", "-rss_limit_mb=2048", *argv[1:]]
        if not any(Path(each).is_file() for each in files):
            seeds.write(corpus)
            options += [f"-dict={corpus.with_suffix('.dict')}"]
            options += [str(corpus)] if files else [str(Path(made, "new")), str(corpus)]
            Path(made, "new").mkdir()
        atheris.Setup([argv[0], *options], one_input, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
