"""A real model in this process: llama.cpp's own HTTP server on the loopback (extra `local`).

    with LocalServer() as server:                      # SmolLM2-135M-Instruct, fetched once
        Client("chat", base_url=server.base_url, api_key=server.api_key, model=server.model)

`fetch_model` downloads the model, `LocalServer` serves it, `shared_server` keeps one per process.

What llama.cpp allows and what it does not (measured with xllamacpp 2026.10.11549 on Linux):

- Its constructor and its destructor hold the GIL: while a model loads (0.4 s for the default one)
  every Python thread stands still, and a Ctrl-C takes effect when the model has loaded.
- Its destructor waits for every open connection without a bound, and it hangs when the server's
  loop has not begun yet. So a server is only dropped once it is quiet.
- A process that ends while the server generates crashes in C++. So a server is closed at exit.
- After `close()` no socket and no file descriptor is left. One thread is left, which waits for
  lines of the log: the same one, however many servers there were. 40 MB of heap stay, too.
- In a forked child the parent's server does not run, and `closed` is true there.
- Starting a server sets SIGPIPE to be ignored, as Python itself does; no other signal is changed.
"""

from __future__ import annotations

from .model import cache_directory, fetch_model
from .server import LocalServer, shared_server

__all__ = ["LocalServer", "cache_directory", "fetch_model", "shared_server"]
