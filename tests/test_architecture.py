"""The core has no effects, the arrows between the modules go one way, importing is light.

All from the source: nothing here runs the package, except to import it in a fresh process.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from every import every

from llmstream._core.dialects import APIS

PACKAGE = Path(__file__).resolve().parents[1] / "llmstream"

# What a pure module may import from outside: values, text, numbers, types. A list of what is
# allowed, so that nothing has to be thought of to be forbidden.
PURE = {
    "__future__",
    "ast",  # literal_eval only: values that a service prints as Python does
    "bisect",
    "collections",
    "contextlib",
    "dataclasses",
    "email",  # email.utils: dates (RFC 9110)
    "enum",
    "functools",
    "html",
    "inspect",  # cleandoc only: the text of a docstring
    "itertools",
    "json",
    "math",
    "msgspec",
    "operator",
    "re",
    "string",
    "types",
    "typing",
    "unicodedata",  # properties of characters
    "decimal",
    "datetime",  # only as arithmetic: see NO_CLOCK_CALLS
    "urllib",  # urllib.parse only: see below
}
PURE_SUBMODULES = {"email": {"email.utils"}, "urllib": {"urllib.parse"}}
# pydantic only computes, and is imported for a type of its own only: the caller has imported it.
ONLY_IN = {"sseclient": {"_core/sse.py"}, "pydantic": {"_core/typeform.py"}}

# Attribute names that read a clock, the environment, a file or a generator of random numbers,
# whatever module they are reached through.
NO_CLOCK_CALLS = {"now", "utcnow", "today", "getenv", "environ", "localtime", "urandom"}
NO_BUILTINS = {"open", "input", "print", "exec", "eval", "compile", "__import__"}

# The floors: each adds one kind of effect. A module imports only from its own floor and below, in
# type-only imports and inside functions too. The longest name that fits counts.
FLOORS = [
    ("values", "_lazy", "_markdown", "_outputs", "_version", "errors", "events", "result"),
    ("pure core", "_core"),
    ("time and threads", "_runtime"),
    ("network", "_transport"),
    ("records, settings, a local server", "telemetry", "_settings", "local"),
    ("one call", "_call"),
    ("readers", "readers"),
    ("runs, typed answers", "tools", "output"),
    ("many calls", "parallel"),
    ("stream", "stream"),
    ("client", "client"),
    (
        "faces",
        "",
        "__main__",
        "batchfile",
        "bench",
        "chat",
        "check",
        "cli",
        "examples",
        "relay",
        "testing",
    ),
]

# Who may import what. The test bench and the local server, which are no part of a call, are free.
FREE = ("testing/", "local/", "check/")
DOORS = {
    "time": ("_runtime/clock.py",),
    "threading": ("_runtime/",),
    "_thread": (),
    "socket": ("_transport/",),
    "select": (),
    "selectors": ("_runtime/readable.py",),
    "ssl": ("_transport/",),
    "http": ("_transport/",),
    "requests": ("_transport/",),
    "urllib3": ("_transport/",),
    "sseclient": ("_core/sse.py",),
    "logging": ("telemetry/",),
    "asyncio": ("relay/loop.py",),
}
# The longest class of the edge, in lines; h11's Connection, say, has 450.
LONGEST_CLASS = 250
# Data rather than code: one class of constants, or arguments and their documentation.
LONG_CLASSES = {"client.py:Client", "testing/server.py:LLMServer"}


def sources(*parts: str) -> list[Path]:
    return sorted(PACKAGE.joinpath(*parts).rglob("*.py"))


def module_name(path: Path) -> str:
    """llmstream/_core/sse.py -> llmstream._core.sse"""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules a file imports, absolute, and whether at the module's level.

    Imports for type checking only count: they bind the files all the same.
    """
    tree = parsed(path)
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    inside = {
        id(n)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for n in ast.walk(function)
    }
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                child = f"{origin}.{alias.name}"
                yield (child if _is_module(child) else origin), top


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


# As pure as the core, though they are above it: parts in, bytes out. (`__init__.py` imports each
# protocol when it is asked for.)
ENCODERS = [
    PACKAGE / "relay" / "parts.py",
    *(path for path in sources("relay", "protocols") if path.name != "__init__.py"),
]


@every("path", lambda: [*reachable_from_core(), *ENCODERS])
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


@every("path", lambda: [*reachable_from_core(), *ENCODERS])
def test_the_core_calls_no_effects(path: Path) -> None:
    """No call that reads a clock, a file or the environment, by whatever way it is reached."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NO_CLOCK_CALLS, f"{relative(path)}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in NO_BUILTINS, f"{relative(path)}:{node.lineno}"


@every("path", reachable_from_core)
def test_the_core_keeps_no_global_state(path: Path) -> None:
    """No `global`: what a stream has said is in its own Session."""
    tree = parsed(path)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("module", DOORS)
def test_effects_have_doors(module: str) -> None:
    """Sockets, threads, time, the log and HTTP libraries are imported where they belong only."""
    for path in sources():
        name = relative(path)
        if name.startswith((*FREE, *DOORS[module])):
            continue
        found = [n for n, _ in imports(path) if n.partition(".")[0] == module]
        assert not found, f"{name} imports {module}"


def test_a_fork_has_one_hook() -> None:
    """Only _runtime/fork.py registers with the interpreter."""
    found = {relative(path) for path in sources() if "register_at_fork(" in path.read_text("utf-8")}
    assert found == {"_runtime/fork.py"}


# --- arrows -------------------------------------------------------------------------------------


def floor(name: str) -> int:
    """The floor of a module of the package."""
    inside = name.partition(".")[2]
    fitting = [
        (len(part), number)
        for number, (_, *parts) in enumerate(FLOORS)
        for part in parts
        if inside == part or (part and inside.startswith(part + "."))
    ]
    assert fitting, f"{name} is on no floor: add it to FLOORS"
    return max(fitting)[1]


@every("path", sources)
def test_arrows_go_down(path: Path) -> None:
    """No module imports from a floor above its own."""
    own = floor(module_name(path))
    for name, _ in imports(path):
        if name.partition(".")[0] == "llmstream":
            other = floor(name)
            assert other <= own, (
                f"{relative(path)} ({FLOORS[own][0]}) imports {name} ({FLOORS[other][0]})"
            )


def test_no_circles_of_files() -> None:
    """Type-only imports and those inside functions counted. A file that imports a package is taken
    to import its __init__.py; being inside a package is not an import of it."""
    arrows = {
        path: {
            found
            for name, _ in imports(path)
            if name.partition(".")[0] == "llmstream"
            and (found := file_of(name)) not in (None, path)
        }
        for path in sources()
    }
    circles = [sorted(map(relative, group)) for group in strongly_connected(arrows)]
    assert circles == []


def strongly_connected(arrows: Mapping[Any, set[Any]]) -> Iterator[list[Any]]:
    """The groups of two and more nodes that reach each other (Tarjan 1972, without recursion)."""
    index: dict[Any, int] = {}
    low: dict[Any, int] = {}
    stack: list[Any] = []
    for root in arrows:
        work = [(root, iter(arrows[root]))] if root not in index else []
        while work:
            node, following = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
            for other in following:
                if other not in index:
                    work.append((other, iter(arrows.get(other, ()))))
                    break
                if other in stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = stack[stack.index(node) :]
                    del stack[stack.index(node) :]
                    if len(group) > 1:
                        yield group


def test_circles_are_found() -> None:
    """The test above can fail."""
    arrows = {1: {2}, 2: {3}, 3: {1, 4}, 4: {5}, 5: set(), 6: {6, 5}, 7: {8}, 8: {7}}
    assert sorted(map(sorted, strongly_connected(arrows))) == [[1, 2, 3], [7, 8]]


def test_nothing_of_the_package_imports_the_test_bench() -> None:
    """Only llmstream.testing knows llmstream.testing, and the commands that play its answers."""
    for path in sources():
        if not relative(path).startswith(("testing/", "bench/", "check/")):
            assert not [n for n, _ in imports(path) if n.startswith("llmstream.testing")]


# --- rooms --------------------------------------------------------------------------------------


def test_no_class_outgrows_its_room() -> None:
    """Of the edge; the core's classes are tables of methods."""
    long = {
        f"{relative(path)}:{node.name}": size
        for path in sources()
        if not relative(path).startswith(("_core/", "events/"))
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
        and (size := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_CLASS
    }
    assert long.keys() <= LONG_CLASSES, long


# The parts of one call, from the caller down. None is named by a part below it.
PARTS = ("Client", "Stream", "Call", "Retrying", "Exchange", "CallContext")


def test_parts_of_a_call_know_only_what_is_below() -> None:
    """`Client -> Stream -> Call -> Retrying -> Exchange -> CallContext`, and no arrow back."""
    files = ("client", "stream", "_call/call", "_call/retrying", "_call/exchange", "_call/context")
    for number, name in enumerate(files):
        tree = parsed(PACKAGE / f"{name}.py")
        known = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not known & set(PARTS[:number]), name


def test_public_paths_say_what_they_have() -> None:
    """A module without an underscore in its path is documented, and lists its names."""
    for path in sources():
        if any(part.startswith("_") for part in module_name(path).split(".")[1:]):
            continue
        if path.name == "plugin.py":
            continue  # pytest's entry point: its fixtures are found, not imported
        tree = parsed(path)
        named = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert ast.get_docstring(tree), relative(path)
        assert "__all__" in named, relative(path)


def test_an_api_is_named_in_its_own_files_only() -> None:
    """The name of an API stands in its dialect, its events, its encoding of testing, and the rows
    of `_core/dialects/__init__.py`; nobody else decides by it."""
    own = ("_core/dialects/", "events/", "testing/answers/")
    for path in sources():
        if relative(path).startswith(own):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Constant) and node.value in APIS:
                where = f"{relative(path)}:{node.lineno}"
                assert where.startswith(tuple(NOT_AN_API)), f"{where} names {node.value!r}"


# Where such a word means something else.
NOT_AN_API = {
    "telemetry/otel/": "`chat` is a GenAI operation",
    "cli/program.py": "`chat` is a command",
    "batchfile/rows.py": "`messages` is a field of a line",
}


# --- what importing costs -----------------------------------------------------------------------

HEAVY = [
    "prometheus_client",
    "opentelemetry",
    "genai_prices",
    "llmstream.telemetry.prometheus",
    "llmstream.telemetry.otel",
    "llmstream.telemetry.timeline",
    "llmstream.telemetry.cost",
    "llmstream.readers.fan",
    "llmstream.readers.handlers",
    "llmstream.readers.paced",
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
    "redis",
    "llmstream.testing",
    "llmstream.local",
    "llmstream.bench",
    "llmstream.relay",
    "llmstream.examples",
    "redis",
    "llmstream.check",
    "llmstream.output",
    "llmstream._core.output",
    "llmstream._call.typed",
    "jiter",
    "llmstream.batchfile",
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


def test_every_test_file_has_a_name_of_its_own() -> None:
    """The folders of tests are no packages: of two files with one name, pytest imports one."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
