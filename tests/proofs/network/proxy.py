"""nginx in front of a service on the loopback. Needs the program, no root."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import trustme
from support import eventually

CONFIG = """
daemon off;
user root root;
worker_processes 1;
worker_shutdown_timeout 5s;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port}{tls};
        location / {{
            proxy_pass {upstream};
            {directives}
        }}
    }}
}}
"""
PATIENCE = 30.0


class Nginx:
    """One nginx. It listens on a socket that was made for it, so that no port is ever guessed, and
    connections are taken from the first moment on."""

    def __init__(self, folder: Path, upstream: str, *directives: str, tls: bool = False) -> None:
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            pytest.skip("needs the program nginx (Debian: nginx)")
        self.folder = folder
        folder.mkdir()
        self._program = program
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.set_inheritable(True)
        port = self._listener.getsockname()[1]
        pem = folder / "server.pem"
        self.ca_file: str | None = None
        if tls:
            self._write_certificate()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self.base_url = f"{self.url}/v1"
        text = CONFIG.format(
            folder=folder,
            port=port,
            upstream=upstream,
            directives="\n            ".join(f"{one};" for one in directives),
            tls=f" ssl; ssl_certificate {pem}; ssl_certificate_key {pem}" if tls else "",
        )
        (folder / "nginx.conf").write_text(text)
        self.process = self._started()

    def _write_certificate(self) -> None:
        authority = trustme.CA()
        self.ca_file = str(self.folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.folder / "server.pem"))

    def _started(self) -> subprocess.Popen[bytes]:
        fd = self._listener.fileno()
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [self._program, "-p", self.folder, "-c", "nginx.conf", "-e", "error.log"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[fd],
                start_new_session=True,  # its worker is killed, or stopped, with it
                env={"NGINX": f"{fd};"},  # how nginx hands its sockets to its successor
            )

    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def kill(self) -> None:
        """Kills it, the worker with it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def terminate(self) -> None:
        """Tells it to end, as a host does that shuts down."""
        self.process.terminate()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """Holds it: it is there, and does nothing."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        master = self.process.pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        for pid in [str(master), *children]:
            stat = Path(f"/proc/{pid}/stat")
            stopped = lambda: stat.read_text().rpartition(")")[2].split()[0] == "T"  # noqa: B023,E731
            eventually(stopped, "nginx has stopped", PATIENCE)

    def restart(self) -> None:
        """A new one in the place of one that was killed."""
        self.process = self._started()

    def end(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self._listener.close()
