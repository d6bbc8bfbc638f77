"""The benchmarks by name: python benchmarks/run.py NAME [options]; NAME --help lists them."""

from __future__ import annotations

import importlib
import sys

NAMES = {
    "train-cpu": "training on a CPU, beside TRL",
    "train-matrix": "training on a CPU in other shapes, beside TRL",
    "train-gpu": "training on one NVIDIA GPU, beside transformers + PEFT",
    "planning": "the plan of a run beside what happened, over a grid",
    "waiting": "how training threads should wait; two processes beside two threads",
    "service": "starting a step, listing jobs, the walkthrough beside its work",
    "gateway": "what the gateway adds to a request, and bad neighbours",
    "serving-torch": "the torch engine beside transformers' generate, in turns",
    "serving": "tokens per second of every engine, beside other servers",
    "studio": "the pages of the studio with a full workspace",
    "sdk-matrix": "the walkthrough with several releases of azure-ai-ml",
}


def main() -> int:
    """Run the benchmark that the first word names, with the rest as its options."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        listed = "\n".join(f"  {known:<14}{about}" for known, about in NAMES.items())
        print(f"{__doc__}\n\n{listed}", file=sys.stdout if name in ("-h", "--help") else sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    sys.argv[0:2] = [f"{sys.argv[0]} {name}"]
    module = importlib.import_module(name.replace("-", "_"))
    return module.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
