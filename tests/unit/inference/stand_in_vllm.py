"""A server with the part of vLLM's API that finery uses, and no model: it says the prompt again.

`stand_in_vllm.py PORT LOG [die]`. Every body it gets is a line of LOG; an answer whose reader
left is the line "left".
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, LOG = int(sys.argv[1]), sys.argv[2]
ADAPTERS: set[str] = set()


def note(value: object) -> None:
    with open(LOG, "a") as file:  # noqa: PTH123 - it imports as little as it can
        file.write(json.dumps(value) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def allowed(self) -> bool:
        right = self.headers.get("authorization") == f"Bearer {os.environ['VLLM_API_KEY']}"
        if not right:
            self.answer(401, {"error": "Unauthorized"})
        return right

    def do_GET(self) -> None:
        if self.allowed():
            self.answer(200, {"data": [{"id": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.allowed():
            return
        note({"path": self.path, **body})
        if self.path == "/v1/completions":
            self.complete(body)
        elif body["lora_name"] == "bad":
            self.answer(400, {"error": {"message": "rank 999 is too large", "code": 400}})
        else:
            ADAPTERS.add(body["lora_name"])
            self.answer(200, "Success")

    def complete(self, body: dict) -> None:
        first = body["prompt"][0]
        if first == 400:
            self.answer(400, {"error": {"message": "the schema has no type", "code": 400}})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            self.stream(body, first)
        except OSError:
            note("left")
        self.close_connection = True

    def stream(self, body: dict, first: int) -> None:
        if first == 777:
            while True:
                self.event({"choices": [{"index": 0, "text": "", "token_ids": [1]}]})
                time.sleep(0.002)
        if first == 666:
            self.event({"choices": [{"index": 0, "text": "", "token_ids": [1]}]})
            print("out of memory", file=sys.stderr, flush=True)
            os._exit(9)
        if first == 555:
            self.event({"error": {"message": "the engine core is dead", "code": 500}})
            return
        ids = body["prompt"][: body["max_tokens"]]
        for two in (ids[:2], ids[2:]):  # several tokens in one event
            choice: dict = {"index": 0, "text": "x", "token_ids": two, "logprobs": None}
            if body.get("logprobs") is not None:
                choice["logprobs"] = {
                    "token_logprobs": [-0.5] * len(two),
                    "top_logprobs": [
                        {f"token_id:{one}": -0.5, "token_id:3": -0.1, "token_id:4": -7.0}
                        for one in two
                    ],
                }
            self.event({"choices": [choice]})
        self.event({"choices": [], "usage": {"prompt_tokens": 1}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value: object) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()


if "die" in sys.argv:
    print("No module named vllm", file=sys.stderr)
    sys.exit(1)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
