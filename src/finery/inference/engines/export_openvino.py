"""Write a Hugging Face model folder as an OpenVINO model with int8 weights.

It runs with the Python of the engine's own environment: `export_openvino.py MODEL TARGET`.
Weights are int8, asymmetric, one scale a channel (NNCF's default 8-bit compression); no data
is needed for it. See https://docs.openvino.ai (weight compression).
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path


def main() -> None:
    """Export the first argument into the second, telling what is under way."""
    source, target = sys.argv[1:]
    start = time.perf_counter()
    warnings.filterwarnings("ignore")  # of tracing, about code that is not ours
    logging.getLogger("nncf").setLevel(logging.ERROR)
    logging.getLogger("optimum").setLevel(logging.ERROR)
    print("reading the model", flush=True)
    from optimum.intel import OVModelForCausalLM  # pyright: ignore[reportMissingImports]

    model = OVModelForCausalLM.from_pretrained(
        source, export=True, compile=False, load_in_8bit=True, local_files_only=True
    )
    print(f"writing int8 weights after {time.perf_counter() - start:.0f} s", flush=True)
    model.save_pretrained(target)
    # It holds the publisher's sampling settings and stop ids: a request brings all of its own.
    (Path(target) / "generation_config.json").unlink(missing_ok=True)
    print(f"exported in {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
