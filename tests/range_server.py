"""A small file server on 127.0.0.1 that resumes, breaks off and stalls on demand."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with Range; breaks off as often as ``server.breaks`` says.

    While ``server.stalls``, it sends half of what is asked for and then waits.
    """

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        if self.server.status:
            return self.send_error(self.server.status)
        if not Path(self.translate_path(self.path)).is_file():
            return self.send_error(404)
        content = Path(self.translate_path(self.path)).read_bytes()
        start = 0
        if self.headers.get("Range") and self.server.resumes:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = len(content)
        if self.server.breaks or self.server.stalls:
            self.server.breaks -= self.server.breaks > 0
            stop = (start + stop) // 2
        self.wfile.write(content[start:stop])
        self.wfile.flush()
        if self.server.stalls:
            self.server.resume.wait(60)
        return None

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """Serve a folder; ``server.url`` is its address."""
    handler = partial(RangeHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.ranges, server.breaks, server.resumes, server.status = [], 0, True, 0
        server.stalls, server.resume = False, threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.resume.set()
            server.shutdown()
