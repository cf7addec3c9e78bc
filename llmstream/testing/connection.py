"""One TCP connection of the test server, and the thread that serves it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .channel import BadRequest, Channel, Gone, read_request
from .journal import Journal
from .playback import ConnectionState, play_reply
from .script import Recorded, Reply

if TYPE_CHECKING:
    import ssl

__all__ = ["THREAD_NAME", "Connection", "ReplyTo", "begin_thread"]

LINGER = 10.0  # seconds: after our FIN, for the client's
THREAD_NAME = "llmstream-test-server"

# Lists a request; the reply to it, and the API in which its answers are encoded.
ReplyTo = Callable[[Recorded], "tuple[Reply, str | None]"]


def begin_thread(work: Callable[[], None], name: str) -> threading.Thread:
    """Do `work` in a daemon thread of the server. Raises RuntimeError if there can be no further
    one."""
    thread = threading.Thread(target=work, name=f"{THREAD_NAME}-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        raise RuntimeError(
            f"the system starts no further thread ({exc}), and the test server needs one for its "
            f"{name}: end other threads, or raise the limits of threads and memory (ulimit -u, -v)"
        ) from None
    return thread


class Connection:
    """Serves requests in a thread of its own, from `begin` until one side ends the connection.

    Arguments:
        sock: the accepted socket; the connection closes it.
        number: its number, for the records.
        journal: where moments and failures are noted.
        reply_to: called in the connection's thread.
        tls: the server's TLS settings; None for plain TCP.
        handshake: False: never answer a TLS hello.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        journal: Journal,
        reply_to: ReplyTo,
        *,
        tls: ssl.SSLContext | None,
        handshake: bool,
    ) -> None:
        self.channel = Channel(sock, self._client_closed)
        self._number = number
        self._journal = journal
        self._reply_to = reply_to
        self._tls = tls
        self._handshake = handshake
        self._recorded: list[Recorded] = []  # used by this connection's thread only
        self.thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread. Raises RuntimeError, and ends the connection, if there can be no
        further thread."""
        try:
            self.thread = begin_thread(self._run, f"connection-{self._number}")
        except BaseException:
            self._end()
            raise

    def _run(self) -> None:
        try:
            self._open()
            while self._serve():
                pass
        except Gone:
            pass
        except Exception as exc:
            self._journal.failed(exc)
        finally:
            self._end()

    def _end(self) -> None:
        self.channel.close()
        self._journal.ended(self._number)

    def _open(self) -> None:
        if self._tls is None:
            return
        if not self._handshake:
            self.channel.linger(None)
        self.channel.shake_hands(self._tls)

    def _serve(self) -> bool:
        """Serve one request; whether there can be another on this connection."""
        try:
            request, keep = read_request(self.channel, self._number)
        except BadRequest as exc:
            refusal = Reply.error(exc.status, message=str(exc))
            return self._after(play_reply(self.channel, refusal, None, keep=False))
        self._recorded.append(request)
        reply, api = self._reply_to(request)
        state = play_reply(self.channel, reply, api, keep=keep)
        self._journal.note(request, finished_at=time.monotonic())
        return self._after(state)

    def _after(self, state: ConnectionState) -> bool:
        if state == "ended":
            self.channel.linger(LINGER)
        return state == "open"

    def _client_closed(self) -> None:
        self._journal.note(*self._recorded, closed_at=time.monotonic())
