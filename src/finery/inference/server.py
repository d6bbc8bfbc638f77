"""A replica: one process that loads one model and answers over HTTP on this machine.

`python -m finery.inference.server MODEL` works on its own; the service starts it with a key
(FINERY_REPLICA_KEY) and a place for the file that says that it is ready and on which port.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from pathlib import Path

from finery.errors import FineryError
from finery.files import write_json

KEY = "FINERY_REPLICA_KEY"
log = logging.getLogger("finery.replica")


def main(arguments: list[str] | None = None) -> int:
    """Load the model, say that it is ready, and answer until SIGTERM."""
    options = _options().parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        _serve(options)
    except FineryError as error:
        print(f"The model could not be served: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finery.inference.server", description=__doc__)
    parser.add_argument("model", help="run, model or adapter folder, or any model source")
    parser.add_argument("--name", default="", help="what clients call the model")
    parser.add_argument("--host", default="127.0.0.1", help="the interface to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready", type=Path, help="file to write once answers can be given")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--at-once", type=int, default=1, help="answers made at the same time")
    return parser


def _serve(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    import uvicorn

    from finery.inference.generate import generate
    from finery.inference.open import open_model
    from finery.inference.server_app import create_app
    from finery.inference.server_engine import Engine

    log.info("loading %s", options.model)
    opened = open_model(options.model, device=options.device)
    # A model that cannot make one token fails here, not at its first user.
    hello = [{"role": "user", "content": "Hello"}]
    generate(opened.model, opened.renderer, [hello], max_new_tokens=1)
    name = options.name or Path(options.model).name
    app = create_app(Engine(opened, options.at_once), name, os.environ.get(KEY, ""))
    with _listening(options.host, options.port) as listener:
        port = listener.getsockname()[1]
        seconds = time.perf_counter() - start
        log.info("%s answers on %s:%d, ready in %.1f s", name, options.host, port, seconds)
        if options.ready:
            write_json(options.ready, {"pid": os.getpid(), "port": port, "seconds": seconds})
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; raises FineryError when it cannot."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise FineryError(f"{host}:{port} cannot be listened on: {error}.") from None
    return listener


if __name__ == "__main__":
    # transformers loads them where they are installed, for assisted decoding and for losses of
    # object detection; that takes as long as loading torch.
    for unused in ("sklearn", "scipy"):
        sys.modules.setdefault(unused, None)  # pyright: ignore[reportArgumentType]
    sys.exit(main())
