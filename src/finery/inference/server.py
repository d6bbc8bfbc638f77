"""A replica: one process that loads one model and answers over HTTP on this machine.

`python -m finery.inference.server MODEL` works on its own; the service starts it with a key
(FINERY_REPLICA_KEY), an engine (FINERY_ENGINE), the seconds that answers under way have once it
is asked to end (FINERY_REPLICA_GRACE), and a place for the file that says that it is ready.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from finery.errors import FineryError

KEY = "FINERY_REPLICA_KEY"
ENGINE = "FINERY_ENGINE"
GRACE = "FINERY_REPLICA_GRACE"


def main(arguments: list[str] | None = None) -> int:
    """Load the model, say that it is ready, and answer until SIGTERM."""
    start = time.perf_counter()
    options = _options().parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from finery.inference.server_run import run

    try:
        return run(options, os.environ.get(KEY, ""), start)
    except FineryError as error:
        print(f"The model could not be served: {error}", file=sys.stderr, flush=True)
        return error.exit_status


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finery.inference.server", description=__doc__)
    parser.add_argument("model", help="run, model or adapter folder, or any model source")
    parser.add_argument("--name", default="", help="what clients call the model")
    parser.add_argument("--host", default="127.0.0.1", help="the interface to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready", type=Path, help="file to write once answers can be given")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--at-once", type=int, default=8, help="answers made at the same time")
    engine = os.environ.get(ENGINE) or "auto"
    parser.add_argument("--engine", default=engine, help="auto, torch, openvino, vllm or stub")
    grace = float(os.environ.get(GRACE) or 10)
    told = "seconds that answers under way have after SIGTERM"
    parser.add_argument("--grace", type=float, default=grace, help=told)
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a LoRA adapter of the model, by the name that clients ask for; may be repeated",
    )
    return parser


if __name__ == "__main__":
    # transformers loads them where they are installed, for assisted decoding and for losses of
    # object detection; that takes as long as loading torch.
    for unused in ("sklearn", "scipy"):
        sys.modules.setdefault(unused, None)  # pyright: ignore[reportArgumentType]
    sys.exit(main())
