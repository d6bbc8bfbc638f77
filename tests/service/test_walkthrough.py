"""The fine-tuning walkthrough, as its document gives it: script, notebook, and our own shorter one.

It runs through `finery exec` in a folder that holds nothing but itself and download-dataset.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from service_process import Service

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
WALKTHROUGH = ROOT.parent / "shared" / "acceptance" / "walkthrough.py"
MINUTES = 60

pytestmark = pytest.mark.timeout(20 * MINUTES)


@pytest.fixture
def folder(kit: Path, tmp_path: Path) -> Path:
    """An empty folder with the two files that the document asks for."""
    if not WALKTHROUGH.is_file():
        pytest.skip("the walkthrough (shared/acceptance beside the checkout) is not here")
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(EXAMPLES / "download-dataset.py", work)
    shutil.copy(WALKTHROUGH, work)
    return work


def finery(service: Service, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A finery command as a person types it, with the environment of `finery` on the path."""
    binaries = Path(sys.executable).parent
    environment = {
        name: value for name, value in os.environ.items() if name not in service.environment
    }
    environment |= {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"FINERY_HOME": str(service.home), **service.extra}
    return subprocess.run(
        [str(binaries / "finery"), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=15 * MINUTES,
    )


def succeeded(answer: subprocess.CompletedProcess[str]) -> str:
    """What a command said, when it ended well."""
    assert answer.returncode == 0, f"{answer.stdout[-6000:]}\n{answer.stderr[-6000:]}"
    return answer.stdout


def tuned_models(client: Any) -> list[str]:
    return [
        model.version for model in client.models.list(name="Phi-3-mini-4k-instruct-ultrachat-200k")
    ]


def test_the_script_runs_unmodified(service: Service, client: Any, folder: Path) -> None:
    before = len(tuned_models(client))
    output = succeeded(finery(service, folder, "exec", "--", "python", "walkthrough.py"))
    assert "raw response" in output
    assert output.split("raw response: \n")[1].strip()
    assert len(tuned_models(client)) == before + 1
    assert not [e for e in client.online_endpoints.list() if e.name.startswith("ultrachat")]
    newest = next(iter(client.jobs.list()))
    assert newest.experiment_name == "chat_completion_Phi-3-mini-4k-instruct"
    assert newest.status == "Completed"


@pytest.mark.parametrize("with_config", [True, False], ids=["config.json", "placeholders"])
def test_the_notebook_runs_in_a_kernel(
    service: Service, folder: Path, *, with_config: bool
) -> None:
    write_notebook(folder / "walkthrough.py", folder / "walkthrough.ipynb")
    if with_config:
        succeeded(finery(service, folder, "init"))
    words = ("exec", "--", "jupyter", "execute", "--inplace", "--timeout=900", "walkthrough.ipynb")
    succeeded(finery(service, folder, *words))
    assert "raw response" in (folder / "walkthrough.ipynb").read_text(encoding="utf-8")


def test_our_own_walkthrough_runs(service: Service, client: Any, folder: Path) -> None:
    shutil.copy(EXAMPLES / "walkthrough.py", folder / "ours.py")
    succeeded(finery(service, folder, "init"))
    options = ("--model", "Phi-3-mini-4k-instruct", "--steps", "2")
    output = succeeded(finery(service, folder, "exec", "--", "python", "ours.py", *options))
    assert "held-out loss" in output
    assert "The model answers:" in output
    assert not [e for e in client.online_endpoints.list() if e.name.startswith("help-desk")]


def write_notebook(script: Path, notebook: Path) -> None:
    """The blocks of the document as the cells of a notebook."""
    import nbformat

    _, *blocks = script.read_text(encoding="utf-8").split("\n# --- block ")
    made = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell("import os")
    cells = [nbformat.v4.new_code_cell("# block " + block.strip()) for block in blocks]
    made.cells = [first, *cells]
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(made, notebook)
