"""What stands in for a model server in these tests: the same manners, no model.

The model's name says how it behaves: `good`, `refuses` (the model cannot be served), `dies`
(before it is ready), `starves` (killed as by a lack of memory), `slow` (is never ready), `deaf`
(never answers a health check), `moody` (is not healthy while the file named by MOOD is there).
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

model, name, ready = sys.argv[1], sys.argv[3], Path(sys.argv[5])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if model == "deaf":
            time.sleep(60)
        is_bad = model == "moody" and Path(os.environ["MOOD"]).exists()
        self.answer(503 if is_bad else 200, {"status": "unhealthy" if is_bad else "healthy"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {os.environ['FINERY_REPLICA_KEY']}":
            self.answer(401, {"error": {"message": "wrong replica key"}})
        elif self.path == "/adapters":
            if (Path(body["folder"]) / "refused").exists():
                self.answer(400, {"error": {"message": "it does not fit the base"}})
            else:
                print(f"adapter {body['name']} in", flush=True)
                self.answer(200, {"name": body["name"]})
        elif body.get("fail"):
            self.answer(body["fail"], {"error": {"message": "the model\nsays no"}})
        else:
            time.sleep(body.get("sleep", 0))
            self.answer(200, {"by": name, "pid": os.getpid(), "body": body})

    def do_DELETE(self) -> None:
        print(f"adapter {self.path.rpartition('/')[2]} out", flush=True)
        self.answer(200, {})

    def answer(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, flush=True)


print(f"loading {model} with {os.environ.get('GREETING', 'nothing')}", flush=True)
if model == "refuses":
    print("The model could not be served: it is a table.", file=sys.stderr)
    sys.exit(1)
if model == "dies":
    sys.exit(70)
if model == "starves":
    os.kill(os.getpid(), 9)
if model == "slow":
    time.sleep(60)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
engine = os.environ.get("FINERY_ENGINE", "")
note = {"pid": os.getpid(), "port": server.server_address[1], "engine": engine, "context": 64}
ready.with_suffix(".tmp").write_text(json.dumps(note))
ready.with_suffix(".tmp").replace(ready)
server.serve_forever()
