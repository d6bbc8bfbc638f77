"""The walkthrough with several releases of azure-ai-ml, each in an environment of its own.

    python benchmarks/run.py sdk-matrix --mirror MIRROR --walkthrough walkthrough.py

Every release is installed from the package index, unmodified. It passes when the script ends
with 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from service import EXAMPLES, FINERY, running_service

RELEASES = ("1.35", "1.34", "1.33", "1.32")
BESIDE = ("azure-identity", "azureml-mlflow", "pandas")


def main(arguments: Sequence[str]) -> int:
    """Install, run, say which passed; 1 when one did not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--mirror", type=Path, required=True)
    options.add_argument("--walkthrough", type=Path, required=True)
    options.add_argument("--releases", nargs="+", default=RELEASES)
    options.add_argument("--environments", type=Path, help="keep the environments here")
    options.add_argument("--json", type=Path, help="where the outcomes go")
    asked = options.parse_args(arguments)
    script = asked.walkthrough.resolve()
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        place = asked.environments or Path(temporary)
        mirror = str(asked.mirror.resolve())
        with running_service({"FINERY_HUB_MIRROR": mirror}):
            for release in asked.releases:
                python = installed(place / release, release)
                outcomes.append(outcome(python, script, release))
                print(json.dumps(outcomes[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(outcomes, indent=2) + "\n", encoding="utf-8")
    return 0 if all(one["passed"] for one in outcomes) else 1


def installed(folder: Path, release: str) -> Path:
    """The interpreter of an environment with this release, made when it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = [f"azure-ai-ml=={release}.*", *BESIDE]
        words = [str(python), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(words, check=True, stdout=2)
    return python


def outcome(python: Path, script: Path, release: str) -> dict[str, object]:
    """One run of the walkthrough."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(EXAMPLES / "download-dataset.py", folder)
        before = time.perf_counter()
        answer = subprocess.run(
            [FINERY, "exec", "--", str(python), str(script)],
            cwd=folder,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
        )
    shown = subprocess.run(
        [str(python), "-c", "from importlib.metadata import version as v; print(v('azure-ai-ml'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {
        "release": release,
        "version": shown.stdout.strip(),
        "passed": answer.returncode == 0,
        "seconds": round(time.perf_counter() - before, 1),
        "error": "" if answer.returncode == 0 else answer.stderr[-2000:],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
