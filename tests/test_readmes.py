"""Every README is true: its Python blocks run, its commands parse, its links lead somewhere, its
pictures are those that the code draws.

Each Python block runs in a process of its own, against a test server on the loopback. A block that
defines tests is run by pytest. In a block's first line `# needs: NAME` names an extra without which
it is skipped, and `# NAME.py` makes the block a file that the blocks after it can import.

    python tests/test_readmes.py README.md 36       # runs the block that begins after line 36
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import logging
import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmstream import Client, LLMStreamError, RetryPolicy, Timeouts
from llmstream.cli import main

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmstream"
SECONDS = 100  # the bound of a block, far from what any takes
MOST_WORDS = 700  # of prose in the README of the repository


# ---- what a reader has and a block does not define -----------------------------------------------


class Page:
    """A user interface that shows text."""

    def clear(self) -> None: ...

    def append(self, text: str) -> None: ...


def my_draft(client: Client) -> str:
    """What an application keeps of an answer, also of one that is cut."""
    try:
        return client.stream("Why is the sky blue?").result().text
    except LLMStreamError as error:
        return error.partial.text


STAND_INS: dict[str, Any] = {
    "log": logging.getLogger("readme"),
    "my_draft": my_draft,
    "page": Page(),
    "save_draft": lambda text: None,
    "send_to_user": lambda text: None,
}

# `# needs: NAME` -> the module that has to be there, where it is not called the same.
NEEDS = {"cost": "genai_prices", "keys": "keyring", "local": "xllamacpp", "otel": "opentelemetry"}

# `# needs: NAME` -> the file that runs such blocks: they are for a program that has to be run.
RUN_BY = dict.fromkeys(
    ("streamlit", "gradio", "marimo", "fastapi", "textual"), "readers/test_apps.py"
)


class Credentials:
    """What `azure-identity` and `google-auth` return: a token that is fetched when it is asked
    for."""

    valid = False
    token: str | None = None

    def refresh(self, request: Any) -> None:
        self.token, self.valid = "ya29.a-token-of-google", True


def stand_in(name: str, **members: Any) -> None:
    """A library of a vendor as far as the examples use it: the real one asks the network."""
    package = ""
    for part in name.split("."):
        package = f"{package}.{part}".strip(".")
        sys.modules[package] = types.ModuleType(package)
    vars(sys.modules[name]).update(members)


def vendors_libraries() -> None:
    """`azure-identity`, whose provider returns a JSON Web Token, and `google-auth`."""
    stand_in(
        "azure.identity",
        DefaultAzureCredential=Credentials,
        get_bearer_token_provider=lambda credential, *scopes: lambda: "eyJh.eyJz.c2ln",
    )
    stand_in("google.auth.transport.requests", Request=object)
    sys.modules["google.auth"].default = lambda scopes: (Credentials(), "a-project")  # type: ignore[attr-defined]
    sys.modules["google"].auth = sys.modules["google.auth"]  # type: ignore[attr-defined]


# The programs that an example may call.
PROGRAMS = {
    *("cp", "git", "gunicorn", "llmstream", "mkdir", "mypy", "npm"),
    *("pip", "pytest", "python", "ruff", "uvicorn"),
}


# ---- READMEs and their blocks --------------------------------------------------------------------


class Block(NamedTuple):
    """A fenced block. `line` is the number of the line with its opening fence."""

    readme: Path
    line: int
    language: str
    code: str

    @property
    def name(self) -> str:
        return f"{self.readme.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def first_line(self) -> str:
        return self.code.partition("\n")[0]

    @property
    def needs(self) -> str | None:
        found = re.fullmatch(r"# needs: (\w+)", self.first_line)
        return found[1] if found else None

    @property
    def file_name(self) -> str | None:
        found = re.fullmatch(r"# ([\w/]+\.py)", self.first_line)
        return found[1] if found else None

    @property
    def has_tests(self) -> bool:
        return re.search(r"^(async )?def test_", self.code, re.MULTILINE) is not None


def _walk(folder: Path) -> Iterator[Path]:
    """The READMEs of a folder, without hidden folders, builds and virtual environments."""
    for path in sorted(folder.iterdir()):
        if path.name == "README.md":
            yield path
        elif path.is_dir() and not path.name.startswith(".") and path.name not in _SKIPPED:
            yield from () if (path / "pyvenv.cfg").exists() else _walk(path)


_SKIPPED = ("build", "dist", "node_modules", "__pycache__")
READMES = tuple(_walk(ROOT))
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@lru_cache
def blocks_of(readme: Path) -> tuple[Block, ...]:
    text = readme.read_text("utf-8")
    return tuple(
        Block(readme, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _FENCED.finditer(text)
    )


BLOCKS = tuple(block for readme in READMES for block in blocks_of(readme))


def blocks(language: str) -> list[Any]:
    return [
        pytest.param(block, id=block.name, marks=_marks(block))
        for block in BLOCKS
        if block.language == language and block.needs not in RUN_BY
    ]


def _marks(block: Block) -> Any:
    """A Python block takes a process. Those of the first pages are in the default suite."""
    if block.needs == "local":
        return pytest.mark.local
    first = block.readme in (ROOT / "README.md", PACKAGE / "README.md")
    return () if first or block.language != "python" else pytest.mark.slow


def readmes() -> Any:
    ids = [readme.relative_to(ROOT).as_posix() for readme in READMES]
    return pytest.mark.parametrize("readme", READMES, ids=ids)


def prose(readme: Path) -> str:
    """The text without blocks, comments and tables."""
    text = _FENCED.sub("", readme.read_text("utf-8"))
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


# ---- Python --------------------------------------------------------------------------------------


def prepare(namespace: dict[str, Any]) -> None:
    """In the process of a block: the names that a reader has, and no network but the loopback."""
    namespace.update(STAND_INS)
    vendors_libraries()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if host not in ("127.0.0.1", "localhost", "::1", None):
            raise AssertionError(f"an example of a README asks for {host!r}")
        return real(host, *rest, **more)

    socket.getaddrinfo = getaddrinfo


def run_block(block: Block) -> None:
    """Run it in this process, with line numbers of its README in tracebacks."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    prepare(vars(module))
    source = "\n" * block.line + block.code
    exec(compile(source, str(block.readme), "exec"), vars(module))


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block: Block, llm_server: Any, tmp_path: Path) -> None:
    """The block runs from top to bottom, and its tests pass."""
    needed = NEEDS.get(block.needs or "", block.needs)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"the block needs {needed}")
    for earlier in blocks_of(block.readme):
        if earlier.file_name and earlier.line < block.line:
            file = tmp_path / earlier.file_name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(earlier.code, "utf-8")
    arguments = [__file__, str(block.readme), str(block.line)]
    if block.has_tests:
        prelude = "import test_readmes; test_readmes.prepare(globals())\n"
        (tmp_path / "test_block.py").write_text(prelude + block.code, "utf-8")
        # Only our own plugin: loading all that are installed takes longer than the block.
        arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
        arguments += ["-o", "markers=local\nslow"]
        arguments += ["-p", "llmstream.testing.plugin"]
        arguments.append("test_block.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=tmp_path,
        env=_environment(llm_server, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def _environment(server: Any, folder: Path) -> dict[str, str]:
    ours = ("OPENAI_", "ANTHROPIC_", "LLMSTREAM_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith(ours) or name == "LLMSTREAM_CACHE")
        and not name.lower().endswith("_proxy")
        and not name.startswith("PYTEST_")
    }
    return {
        **kept,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OPENAI_API_KEY": "test-key",
        "OPENAI_BASE_URL": server.base_url,
        "AZURE_OPENAI_ENDPOINT": server.url,
        "VERTEX_BASE_URL": server.base_url,
        "ANTHROPIC_API_KEY": "test-key",
        "ANTHROPIC_BASE_URL": server.base_url_for("messages"),
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests"))),
    }


@pytest.mark.parametrize("name", STAND_INS)
def test_stand_ins_are_used(name: str) -> None:
    """The table above has no name that no README uses."""
    assert any(re.search(rf"\b{name}\b", block.code) for block in BLOCKS)


# ---- commands ------------------------------------------------------------------------------------


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a block, without variables, redirections and comments."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        redirected = False
        for word in words:
            if word in ("|", "||", "&&", ";", "&"):
                yield command
                command = []
            elif word in ("<", ">", ">>"):
                redirected = True
            elif redirected:
                redirected = False
            elif command or not re.match(r"\w+=", word):
                command.append(word)
        if command:
            yield command


@pytest.mark.parametrize("block", blocks("sh"))
def test_commands(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs, options, scripts and extras of an example exist."""
    for program, *arguments in commands(block.code):
        assert program in PROGRAMS
        if program == "llmstream":
            parse(arguments, monkeypatch)
        elif program == "python":
            assert_runs(arguments)
        elif program == "pip":
            assert_installs(arguments)


@readmes()
def test_commands_in_the_text(readme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for found in re.finditer(r"`(llmstream [^`]+)`", _FENCED.sub("", readme.read_text("utf-8"))):
        for _, *arguments in commands(found[1]):
            parse(arguments, monkeypatch)


class _Parsed(Exception):
    pass


def parse(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes these arguments; it is not run."""

    def parse_args(parser: argparse.ArgumentParser, *given: Any) -> None:
        _, unknown = parser.parse_known_args(*given)
        assert not unknown
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises((_Parsed, SystemExit)) as raised:
        main(arguments)
    assert getattr(raised.value, "code", 0) == 0, arguments  # --help and --version exit with 0


def assert_runs(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), arguments
    elif arguments[0] == "-c":
        imported = [n for n in ast.walk(ast.parse(arguments[1])) if isinstance(n, ast.ImportFrom)]
        for node in imported:
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), arguments
    else:
        assert (ROOT / arguments[0]).is_file(), arguments


def assert_installs(arguments: list[str]) -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for found in re.finditer(r"(?:^|\s)(?:\.|llmstream-sync)\[([\w,]+)\]", " ".join(arguments)):
        for extra in found[1].split(","):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"no extra {extra}"


# ---- links ---------------------------------------------------------------------------------------


@readmes()
def test_links(readme: Path) -> None:
    """Links and pictures lead to files, and anchors to headings."""
    text = _FENCED.sub("", readme.read_text("utf-8"))
    for found in re.finditer(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = found[1].partition("#")
        if re.match(r"\w+:", target):
            continue
        file = (readme.parent / target).resolve() if target else readme
        assert file.exists(), found[1]
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in [_anchor(heading) for heading in headings], found[1]


def _anchor(heading: str) -> str:
    """As GitHub writes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["llmstream/README.md", "tests/README.md"])
def test_paths(name: str) -> None:
    """The files and folders that the maps name exist (`NAME` is a reader's own)."""
    readme = ROOT / name
    for found in re.finditer(r"`([\w./]+(?:\.py|\.toml|/))`", readme.read_text("utf-8")):
        if "NAME" in found[1]:
            continue
        places = (readme.parent, ROOT, ROOT / "llmstream")
        assert any((place / found[1]).exists() for place in places), found[1]


def test_names() -> None:
    """The classes and tables that the map names are in the code."""
    package = ROOT / "llmstream"
    code = "\n".join(path.read_text("utf-8") for path in sorted(package.rglob("*.py")))
    known = set(re.findall(r"\w+", code))
    named = re.findall(r"`(?:\w+\.)?([A-Z]\w+)`", (package / "README.md").read_text("utf-8"))
    assert {name for name in named if not name.startswith("LLMSTREAM_")} <= known


# ---- the README of the repository ----------------------------------------------------------------

README = ROOT / "README.md"


def test_it_is_short() -> None:
    assert len(prose(README).split()) <= MOST_WORDS


@readmes()
def test_nobody_installs_the_other_llmstream(readme: Path) -> None:
    """The name `llmstream` on the package index belongs to another project."""
    text = readme.read_text("utf-8")
    assert not re.search(r"pip install (?:-\S+ )*[\"']?llmstream(?!-sync)\b", text)


@pytest.mark.parametrize("marker", ["first-light", "tests"])
def test_ci_can_read_its_commands(marker: str) -> None:
    """`.ci/run` runs the line after the fence after the marker."""
    lines = README.read_text("utf-8").splitlines()
    at = lines.index(f"<!-- {marker} -->")
    assert lines[at + 1] == "```sh"
    assert lines[at + 3] == "```"


def test_its_defaults_are_those_of_the_code() -> None:
    text = README.read_text("utf-8")
    given = {name: getattr(Timeouts(), name) for name in Timeouts.__struct_fields__}
    shown = [f"{n}={v:g}" if isinstance(v, float) else f"{n}={v!r}" for n, v in given.items()]
    assert f"`Timeouts({', '.join(shown)})`".replace("'", '"') in text
    assert f"`RetryPolicy(max_attempts={RetryPolicy().max_attempts})`" in text


# ---- pictures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "readme_pictures.py"))


@pytest.mark.parametrize("name", ["call.svg", "clocks.svg"])
def test_pictures(drawn: dict[str, Any], name: str) -> None:
    """Run `python benchmarks/readme_pictures.py` where this fails, and look at them."""
    assert f"(benchmarks/pictures/{name})" in README.read_text("utf-8")
    assert (drawn["FOLDER"] / name).read_bytes() == drawn["pictures"]()[name].encode()


def test_lines_of_the_log_are_those_of_the_picture(drawn: dict[str, Any]) -> None:
    """Every line of the log that a README shows was written by the call of the picture."""
    written = drawn["bad_day"]().log
    shown = {
        line
        for readme in READMES
        for line in readme.read_text("utf-8").splitlines()
        if re.match(r"[A-Z]+ llmstream call ", line)
    }
    assert written[-1] in README.read_text("utf-8").splitlines()
    assert shown <= set(written)


# ---- the map -------------------------------------------------------------------------------------


def test_the_map_has_the_floors_of_the_architecture() -> None:
    """From the top floor down, as test_architecture.py has them from the bottom up."""
    from test_architecture import FLOORS

    drawing = blocks_of(ROOT / "llmstream" / "README.md")[0].code
    at = 0
    for name, *parts in reversed(FLOORS):
        line = next(
            (i for i, text in enumerate(drawing.splitlines()) if text.startswith(name[:10])), -1
        )
        assert line >= at, name
        at = line
        for part in parts:
            assert (part or "__init__") in drawing.splitlines()[line] or part == "_version", part


if __name__ == "__main__":
    file, number = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    run_block(next(block for block in blocks_of(file) if block.line == number))
