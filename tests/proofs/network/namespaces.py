"""Two hosts on one machine: network namespaces, joined by a veth pair or by a bad wire, with an LLM
service on the one and callers on the other. Needs root, `ip`, `ss` and `nft`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import PACKAGE, eventually

from llmstream._core.dialects import APIS

HERE = Path(__file__).resolve().parent
PATIENCE = 30.0  # seconds: the bound of every wait here, on a machine that has much to do
CALLER, SERVICE, SECOND = "10.77.0.1", "10.77.0.2", "10.77.0.3"
CONFIGURED = "/etc/netns"  # what `ip netns exec` lays over /etc
FAR = 60.0  # seconds of a clock that is not to break

_numbers = itertools.count()


def run(*command: str, data: str | None = None) -> str:
    """What a command says; it has to succeed."""
    done = subprocess.run(command, input=data, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


def needs_namespaces() -> None:
    """Skips the test where this machine cannot have them."""
    for program in ("ip", "ss", "nft"):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program} (Debian: iproute2, nftables)")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    _sweep()
    name = f"llms-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    try:
        nft = ["ip", "netns", "exec", name, "nft", "add", "table", "inet", "probe"]
        tried = subprocess.run(nft, capture_output=True, text=True)
        if tried.returncode != 0:
            pytest.skip(f"no firewall in a namespace here: {tried.stderr.strip()}")
    finally:
        run("ip", "netns", "del", name)


def _sweep() -> None:
    """Removes what tests that were killed could not."""
    for line in run("ip", "netns", "list").splitlines():
        found = re.match(r"llms-(\d+)-", line)
        if found and not Path("/proc", found[1]).exists():
            _delete(line.split()[0])


def _delete(name: str) -> None:
    # Somebody else may sweep at the same time.
    subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=PATIENCE)
    shutil.rmtree(Path(CONFIGURED, name), ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty, or not there
        os.rmdir(CONFIGURED)


# ---- programs ----------------------------------------------------------------------------------


class Program:
    """A Python program of this folder, spoken to in lines. It ends with its input, and so with
    the tests, however those end."""

    def __init__(self, script: str, *args: str, host: Sequence[str] = (), folder: Path) -> None:
        kept = ("PATH", "HOME", "LANG")  # no key, no proxy, no settings
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.log = folder / f"{script}-{next(_numbers)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*host, sys.executable, str(HERE / script), *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**environment, "PYTHONPATH": str(PACKAGE), "TMPDIR": str(folder)},
            )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, name="program-reader")
        self._reader.start()
        self._taken = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def line(self) -> str:
        """Its next line, which is waited for."""

        def here() -> bool:
            assert self.process.poll() is None or self._reader.is_alive() or self.has_line, (
                f"it ended: {self.log.read_text()}"
            )
            return self.has_line

        eventually(here, "the program says something", PATIENCE)
        self._taken += 1
        return self.lines[self._taken - 1]

    @property
    def has_line(self) -> bool:
        return len(self.lines) > self._taken

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        """Sends a signal, and waits until it is done."""
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(PATIENCE)
        elif number == signal.SIGSTOP:
            stat = Path(f"/proc/{self.process.pid}/stat")
            state = lambda: stat.read_text().rpartition(")")[2].split()[0]  # noqa: E731
            eventually(lambda: state() == "T", "the program has stopped", PATIENCE)

    def end(self) -> None:
        """Ends it for certain."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # something was still to be written
                    pipe.close()


class Service(Program):
    """service.py, and where it listens."""

    def __init__(self, address: str, folder: Path, host: Sequence[str] = ()) -> None:
        super().__init__("service.py", address, host=host, folder=folder)
        self.url, self.tls_url, self.ca_file = json.loads(self.line())

    def asked(self, trace: str) -> dict[str, int]:
        """How many requests it had of a trace, and how many of their connections are closed."""
        self.tell(trace)
        answer: dict[str, int] = json.loads(self.line())
        return answer


class Caller(Program):
    """caller.py, and what came of its calls. One call for each of `wishes`: an API, "http" or
    "tls", and the clocks that are to be near."""

    def __init__(
        self,
        service: Service,
        wishes: Sequence[tuple[str, str, dict[str, float]]],
        *,
        prompt: str,
        attempts: int = 1,
        rounds: int = 1,
        rename: Callable[[str], str] = str,
        host: Sequence[str],
        folder: Path,
    ) -> None:
        self.trace = uuid.uuid4().hex
        self.wishes = wishes
        calls = []
        for number, (api, scheme, clocks) in enumerate(wishes):
            url = rename(service.tls_url if scheme == "tls" else service.url)
            calls.append(
                {
                    "api": api,
                    "base_url": url + APIS[api].base_path,
                    "verify": service.ca_file,
                    "prompt": prompt,
                    "attempts": attempts,
                    "trace_id": f"{self.trace}-{number}",
                    "timeouts": {
                        **dict.fromkeys(("connect", "first_token", "idle", "silence"), FAR),
                        **clocks,
                    },
                }
            )
        super().__init__("caller.py", json.dumps(calls), str(rounds), host=host, folder=folder)

    def facts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.copy() if line.endswith("\n")]

    def until_tokens(self, count: int = 3) -> None:
        """Waits until each of the calls has had so many tokens."""

        def had() -> bool:
            tokens = [fact["call"] for fact in self.facts() if "token" in fact]
            ended = [fact for fact in self.facts() if "error" in fact]
            assert not ended, ended
            assert self.process.poll() is None, self.log.read_text()
            return all(tokens.count(number) >= count for number in range(len(self.wishes)))

        eventually(had, f"each call has had {count} tokens", PATIENCE)

    def until_quiet(self, seconds: float) -> None:
        """Waits until nothing has been said for so long."""
        said, since = len(self.lines), time.monotonic()

        def quiet() -> bool:
            nonlocal said, since
            if len(self.lines) != said:
                said, since = len(self.lines), time.monotonic()
            return time.monotonic() - since >= seconds

        eventually(quiet, f"the calls are quiet for {seconds} s", PATIENCE)

    def until_round_over(self) -> None:
        eventually(lambda: {"round": "over"} in self.facts(), "the first round is over", PATIENCE)

    def outcomes(self) -> list[dict[str, Any]]:
        """How each call ended, in the order of the wishes (in several rounds: the last ones).

        Whatever the outcome, the program has to end, nothing may be left in it, and what was
        delivered has to be what is told.
        """
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"a call hangs; so far: {self.facts()[-5:]}")
        self._reader.join(PATIENCE)
        assert self.process.returncode == 0, self.log.read_text()
        assert self.log.read_text() == ""
        facts = self.facts()
        left = facts[-1]
        assert left == {"threads": [], "too_many": 0, "sockets": 0}
        ended = {fact["call"]: fact for fact in facts if "error" in fact}
        outcomes = [ended[number] for number in range(len(self.wishes))]
        for outcome in outcomes:
            assert outcome["tokens"] == outcome["text"], outcome
        return outcomes


# ---- the network -------------------------------------------------------------------------------


class Net:
    """The two hosts. `bad_wire` (the arguments of wire.py) puts a third between them."""

    def __init__(self, folder: Path, bad_wire: Sequence[str] = ()) -> None:
        self.folder = folder
        unique = f"llms-{os.getpid()}-{next(_numbers)}"
        self.caller, self.service = f"{unique}-c", f"{unique}-s"
        self._middle = f"{unique}-w" if bad_wire else ""
        self._made: list[str] = []
        self._programs: list[Program] = []
        self._running: Service | None = None
        self.wire: Program | None = None
        try:
            self._build(bad_wire)
        except BaseException:
            self.remove()
            raise

    def _build(self, bad_wire: Sequence[str]) -> None:
        for name in filter(None, (self.caller, self.service, self._middle)):
            run("ip", "netns", "add", name)
            self._made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            # The kernel sends one ICMP error a second; here each packet is to have its own.
            unlimited = "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit"
            run(*self.on(name), "sh", "-c", unlimited)
        if not bad_wire:
            self._join((self.caller, "net0"), (self.service, "net0"))
        else:
            self._join((self.caller, "net0"), (self._middle, "a0"))
            self._join((self.service, "net0"), (self._middle, "b0"))
            for name in ("a0", "b0"):
                run("ip", "-n", self._middle, "link", "set", name, "up")
            host = self.on(self._middle)
            self.wire = Program("wire.py", *bad_wire, host=host, folder=self.folder)
            self._programs.append(self.wire)
            assert self.wire.line() == "ready\n"
        self.heal()

    @staticmethod
    def _join(one: tuple[str, str], other: tuple[str, str]) -> None:
        ends = [one[1], "netns", one[0], "type", "veth", "peer", "name", other[1], "netns"]
        run("ip", "link", "add", *ends, other[0])

    @staticmethod
    def on(host: str) -> list[str]:
        return ["ip", "netns", "exec", host]

    def heal(self) -> None:
        """Everything as it was: links, addresses, no firewall."""
        for host, addresses in ((self.caller, [CALLER]), (self.service, [SERVICE, SECOND])):
            run(*self.on(host), "nft", "flush", "ruleset")
            run("ip", "-n", host, "route", "flush", "type", "unreachable")
            run("ip", "-n", host, "route", "flush", "type", "prohibit")
            for address in addresses:
                run("ip", "-n", host, "addr", "replace", f"{address}/24", "dev", "net0")
            run("ip", "-n", host, "link", "set", "net0", "up")
            shutil.rmtree(Path(CONFIGURED, host), ignore_errors=True)

    def remove(self) -> None:
        """Nothing of it is left."""
        for program in self._programs:
            program.end()
        for name in self._made:
            _delete(name)

    # faults

    def firewall(self, host: str, hook: str, *rules: str) -> None:
        """Rules of nft for what comes in to a host ("input") or leaves it ("output")."""
        lines = "\n".join([f"type filter hook {hook} priority 0;", *rules])
        table = f"table inet faults {{\nchain {hook} {{\n{lines}\n}}\n}}\n"
        run(*self.on(host), "nft", "-f", "-", data=table)

    def counted(self) -> int:
        """The packets that the rules with a `counter` have met."""
        met = 0
        for host in (self.caller, self.service):
            listed = run(*self.on(host), "nft", "list", "ruleset")
            met += sum(int(number) for number in re.findall(r"counter packets (\d+)", listed))
        return met

    def until_counted(self, count: int) -> None:
        eventually(lambda: self.counted() >= count, f"{count} packets met the rules", PATIENCE)

    def until_resending(self, connections: int) -> None:
        """Waits until the service's kernel has sent something for the third time, on each of so
        many connections."""

        def resending() -> bool:
            told = run(*self.on(self.service), "ss", "-tinH", "state", "established")
            backoffs = [int(number) for number in re.findall(r"backoff:(\d+)", told)]
            return sum(number >= 2 for number in backoffs) >= connections

        eventually(resending, "the service's kernel sends again and again", PATIENCE)

    def until_blocked(self, connections: int) -> None:
        """Waits until so many connections of the caller hang: in their opening, or with something
        that was sent and not acknowledged."""

        def blocked() -> bool:
            told = run(*self.on(self.caller), "ss", "-tnH").splitlines()
            fields = [line.split() for line in told]
            return sum(f[0] == "SYN-SENT" or int(f[2]) > 0 for f in fields) >= connections

        eventually(blocked, "the connections hang", PATIENCE)

    def link(self, host: str, state: str) -> None:
        run("ip", "-n", host, "link", "set", "net0", state)

    # files of a host's own /etc

    def configure(self, host: str, **files: str) -> None:
        """For the programs that start from now on; `hosts` is /etc/hosts, `resolv_conf` ..."""
        folder = Path(CONFIGURED, host)
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)

    # programs

    @property
    def server(self) -> Service:
        """The service, which is started where it does not run."""
        if self._running is None or self._running.process.poll() is not None:
            self._running = Service(SERVICE, self.folder, self.on(self.service))
            self._programs.append(self._running)
        return self._running

    def call(self, *wishes: tuple[str, str, dict[str, float]], **settings: Any) -> Caller:
        """A caller of the service, see Caller."""
        host = self.on(self.caller)
        caller = Caller(self.server, wishes, host=host, folder=self.folder, **settings)
        self._programs.append(caller)
        return caller

    def end_callers(self) -> None:
        if self._running is not None:
            self._running.process.send_signal(signal.SIGCONT)  # where it was stopped
        for program in self._programs:
            if isinstance(program, Caller):
                program.end()
        self._programs = [one for one in self._programs if not isinstance(one, Caller)]
