"""The core has no effects, the arrows between the modules go one way, importing is light.

All from the source: nothing here runs the package, except to import it in a fresh process.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "llmstream"

# What a pure module may import from outside: values, text, numbers, types. A list of what is
# allowed, so that nothing has to be thought of to be forbidden.
PURE = {
    "__future__",
    "collections",
    "contextlib",
    "dataclasses",
    "email",  # email.utils: dates (RFC 9110)
    "enum",
    "functools",
    "itertools",
    "json",
    "math",
    "msgspec",
    "operator",
    "re",
    "string",
    "types",
    "typing",
    "datetime",  # only as arithmetic: see NO_CLOCK_CALLS
    "urllib",  # urllib.parse only: see below
}
PURE_SUBMODULES = {"email": {"email.utils"}, "urllib": {"urllib.parse"}}
ONLY_IN = {"sseclient": {"_core/sse.py"}}

# Attribute names that read a clock, the environment, a file or a generator of random numbers,
# whatever module they are reached through.
NO_CLOCK_CALLS = {"now", "utcnow", "today", "getenv", "environ", "localtime", "urandom"}
NO_BUILTINS = {"open", "input", "print", "exec", "eval", "compile", "__import__"}

# DESIGN 7: "events, errors <- core <- edge <- stream <- client <- facade". A module imports only
# from its own level and below. What is not listed stands beside the facade: it may import all,
# and of these modules none may import it (but inside a function, when it is used).
LEVELS = {
    "_version": 0,
    "result": 0,
    "errors": 0,
    "events": 0,
    "secret": 0,
    "_core": 1,
    "clock": 2,
    "observe": 2,
    "budget": 2,
    "watchdog": 2,
    "transport": 2,
    "config": 2,
    "stream": 3,
    "client": 4,
}
EDGE = 2
BESIDE = 5


def sources(*parts: str) -> list[Path]:
    return sorted(PACKAGE.joinpath(*parts).rglob("*.py"))


def module_name(path: Path) -> str:
    """llmstream/_core/sse.py -> llmstream._core.sse"""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules a file imports, absolute, and whether at the module's level.

    Imports for type checking only do not count: they never run.
    """
    tree = ast.parse(path.read_text("utf-8"))
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    skipped = {id(n) for n in ast.walk(tree) if _is_type_checking(n) for n in ast.walk(n)}
    inside = {
        id(n)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for n in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                child = f"{origin}.{alias.name}"
                yield (child if _is_module(child) else origin), top


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def file_of(name: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def reachable_from_core() -> list[Path]:
    """The core's files, and whatever they import inside the package, transitively.

    The package's own __init__ is left out: Python runs it before any of its modules, and it is
    the facade.
    """
    todo = sources("_core")
    found: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for name, _ in imports(path):
            own = file_of(name) if name.startswith("llmstream.") else None
            if own is not None:
                todo.append(own)
    return sorted(found)


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


# --- purity -------------------------------------------------------------------------------------


def test_the_core_was_found() -> None:
    """The tests below look at something."""
    found = {relative(path) for path in reachable_from_core()}
    assert {"_core/session.py", "_core/sse.py", "errors.py", "result.py"} <= found
    assert "_core/dialects/responses.py" in found


@pytest.mark.parametrize("path", reachable_from_core(), ids=relative)
def test_the_core_imports_no_effects(path: Path) -> None:
    """No clock, thread, socket, random, logger, metrics or HTTP: only what is listed as pure."""
    for name, _ in imports(path):
        top = name.partition(".")[0]
        if top == "llmstream":
            continue
        if relative(path) in ONLY_IN.get(top, ()):
            continue
        assert top in PURE, f"{relative(path)} imports {name}"
        if top in PURE_SUBMODULES:
            assert name in PURE_SUBMODULES[top], f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", reachable_from_core(), ids=relative)
def test_the_core_calls_no_effects(path: Path) -> None:
    """No call that reads a clock, a file or the environment, by whatever way it is reached."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NO_CLOCK_CALLS, f"{relative(path)}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in NO_BUILTINS, f"{relative(path)}:{node.lineno}"


@pytest.mark.parametrize("path", reachable_from_core(), ids=relative)
def test_the_core_keeps_no_global_state(path: Path) -> None:
    """No `global`: what a stream has said is in its own Session."""
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


def test_sseclient_has_one_door() -> None:
    """Only _core/sse.py imports sseclient, in the whole package."""
    doors = {relative(p) for p in sources() for n, _ in imports(p) if n.startswith("sseclient")}
    assert doors == {"_core/sse.py"}


def test_time_has_one_door() -> None:
    """Only clock.py imports time (the test bench, which is no part of a call, aside)."""
    doors = {relative(p) for p in sources() for n, _ in imports(p) if n.partition(".")[0] == "time"}
    assert {d for d in doors if not d.startswith("testing/")} == {"clock.py"}


def test_requests_has_one_door() -> None:
    """Only transport.py imports requests, urllib3 and ssl: one translator of their exceptions."""
    foreign = {"requests", "urllib3", "ssl"}
    doors = {
        relative(p) for p in sources() for n, _ in imports(p) if n.partition(".")[0] in foreign
    }
    assert {d for d in doors if not d.startswith("testing/")} == {"transport.py"}


# --- arrows -------------------------------------------------------------------------------------


def level(name: str) -> int:
    """The level of a module of the package, by its first name."""
    part = name.split(".")[1] if "." in name else ""
    return LEVELS.get(part, BESIDE)


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_arrows_go_one_way(path: Path) -> None:
    """No module imports from a level above its own."""
    own = level(module_name(path))
    for name, at_module_level in imports(path):
        if not name.startswith("llmstream"):
            continue
        other = level(name)
        if other == BESIDE and not at_module_level and own >= EDGE:
            continue  # an extra, imported when it is used
        assert other <= own, f"{relative(path)} (level {own}) imports {name} (level {other})"


def test_nothing_of_the_package_imports_the_test_bench() -> None:
    """Only llmstream.testing knows llmstream.testing, and the command that plays its faults."""
    for path in sources():
        if not relative(path).startswith(("testing/", "check.py")):
            assert not [n for n, _ in imports(path) if n.startswith("llmstream.testing")]


# --- what importing costs -----------------------------------------------------------------------

HEAVY = [
    "prometheus_client",
    "opentelemetry",
    "genai_prices",
    "llmstream.metrics",
    "llmstream.otel",
    "llmstream.trace",
    "llmstream.cost",
    "pytest",
    "xllamacpp",
    "tqdm",
    "trustme",
    "hypothesis",
    "keyring",
    "IPython",
    "matplotlib",
    "asyncio",
    "flask",
    "django",
    "llmstream.testing",
    "llmstream.local",
    "llmstream.check",
]


def test_importing_is_light() -> None:
    """`import llmstream` brings neither metrics nor tests nor any extra."""
    code = f"import sys, llmstream; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=60,
        check=False,
    )
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


def test_importing_starts_nothing() -> None:
    """`import llmstream` starts no thread and opens no file descriptor."""
    code = (
        "import os, sys, threading\n"
        "fds = lambda: sorted(os.listdir('/proc/self/fd')) if os.path.exists('/proc') else []\n"
        "before = fds()\n"
        "import llmstream\n"
        "print(threading.active_count(), fds() == before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=60,
        check=False,
    )
    assert (run.stdout.strip(), run.stderr) == ("1 True", "")
