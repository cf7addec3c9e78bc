"""A SOCKS proxy for tests, as a handler of a RawServer: versions 4, 4a, 5 and 5h, with and without
a password. It connects to one server, whatever is asked for, and it stalls or refuses as told."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

from support import PATIENCE

STAGES = ("greeting", "auth", "reply", "tunnel")


class SocksServer:
    """`stall` is the stage in which nothing more is sent; `code` the answer to the request (0: it
    is granted); `user` and `password`, if any, are wanted. `asked` has the hosts that were
    asked for, `reached` tells that a connection has arrived at the stage where it stalls."""

    def __init__(
        self,
        target: str = "",
        *,
        stall: str = "",
        code: int = 0,
        user: str = "",
        password: str = "",
    ) -> None:
        self.target = int(target.rpartition(":")[2]) if target else 0
        self.stall = stall
        self.code = code
        self.credentials = (user, password) if user else None
        self.asked: list[tuple[str, int]] = []
        self.logins: list[tuple[str, str]] = []
        self.reached = threading.Event()
        self.over = threading.Event()

    def __call__(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as reader:
            version = reader.read(1)
            granted = (
                self._socks5(sock, reader) if version == b"\x05" else self._socks4(sock, reader)
            )
        if not granted or self._stalls(sock, "tunnel"):
            return
        with socket.create_connection(("127.0.0.1", self.target)) as onward:
            back = threading.Thread(target=pump, args=(onward, sock), name="raw-connection")
            back.start()
            pump(sock, onward)
            back.join(PATIENCE)

    def _stalls(self, sock: socket.socket, stage: str) -> bool:
        if self.stall != stage:
            return False
        self.reached.set()
        sock.settimeout(PATIENCE)
        while sock.recv(65536):  # until the client leaves
            pass
        return True

    def _socks5(self, sock: socket.socket, reader: Any) -> bool:
        methods = reader.read(reader.read(1)[0])
        if self._stalls(sock, "greeting"):
            return False
        wanted = 2 if self.credentials else 0
        if wanted not in methods:
            sock.sendall(b"\x05\xff")
            return False
        sock.sendall(bytes((5, wanted)))
        if wanted:
            reader.read(1)
            login = tuple(reader.read(reader.read(1)[0]).decode() for _ in range(2))
            self.logins.append(login)  # type: ignore[arg-type]
            if self._stalls(sock, "auth"):
                return False
            sock.sendall(b"\x01\x00" if login == self.credentials else b"\x01\x01")
            if login != self.credentials:
                return False
        kind = reader.read(4)[3]
        if kind == 3:
            host = reader.read(reader.read(1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, reader.read(size))
        self.asked.append((host, struct.unpack(">H", reader.read(2))[0]))
        if self._stalls(sock, "reply"):
            return False
        sock.sendall(bytes((5, self.code, 0, 1, 127, 0, 0, 1, 0, 0)))
        return not self.code

    def _socks4(self, sock: socket.socket, reader: Any) -> bool:
        _, port, address = struct.unpack(">BH4s", reader.read(7))
        self.logins.append((until_zero(reader), ""))
        host = socket.inet_ntoa(address)
        if address[:3] == b"\x00\x00\x00":
            host = until_zero(reader)
        self.asked.append((host, port))
        if self._stalls(sock, "reply"):
            return False
        sock.sendall(bytes((0, self.code or 0x5A)) + bytes(6))
        return not self.code


def until_zero(reader: Any) -> str:
    text = b""
    while (byte := reader.read(1)) not in (b"\x00", b""):
        text += byte
    return text.decode()


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # either side has left
