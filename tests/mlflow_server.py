"""A server that takes what a step sends to MLflow, and keeps it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Mlflow:
    """A server that keeps what it is sent; the first `failures` requests get `status`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        self.failures, self.status = 0, 500
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                value = json.loads(self.rfile.read(length))
                failed = outer.failures > 0
                outer.failures -= failed
                if not failed:
                    outer.asked.append((self.path, self.headers.get("Authorization"), value))
                self.send_response(outer.status if failed else 200)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}/mlflow"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, run: str, key: str = "metrics") -> list[dict[str, Any]]:
        return [row for _, _, v in self.asked if v["run_id"] == run for row in v.get(key, [])]


@contextmanager
def mlflow_server() -> Iterator[Mlflow]:
    """The server, on a free port, until the block ends."""
    made = Mlflow()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
