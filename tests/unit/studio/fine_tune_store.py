"""What the tests of the fine-tuning form stand on: a model, data, and a form as a browser sends."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from studio_store import put_data

from finery.studio import fine_tune_form as forms
from finery.workspace import assets
from finery.workspace.asset import Asset
from finery.workspace.place import BLOB_CONTAINER, Workspace

ORIGIN = {"origin": "http://127.0.0.1"}
MODEL, DATA = "azureml://models/tiny/versions/1", "azureml://data/chats/versions/1"
ROW = json.dumps(
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
)


def put_base(
    workspace: Workspace,
    name: str = "tiny",
    kind: str = "custom_model",
    shape: tuple[int, ...] = (),
) -> Path:
    """A registered model whose folder says how large it is; its weights are not there."""
    folder = workspace.blobs / BLOB_CONTAINER / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model_type": "llama", "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    tensor = {"dtype": "BF16", "shape": shape or [10, 4], "data_offsets": [0, 80]}
    head = json.dumps({"w": tensor}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(80))
    if kind == "mlflow_model":
        (folder / "MLmodel").write_text("flavors: {}\n")
    uri = f"azureml://datastores/workspaceblobstore/paths/models/{name}"
    assets.put(workspace, Asset("model", "", name, "1", kind, uri))
    return folder


def put_both(workspace: Workspace) -> None:
    """A model and data."""
    put_base(workspace)
    put_data(workspace, "chats", "rows.jsonl", f"{ROW}\n" * 20)


def filled(**changes: str) -> dict[str, str]:
    """The form as it is sent when model and data are chosen."""
    values = dict(forms.blank(model=MODEL, train=DATA).values) | changes
    plain = {name: text for name, text in values.items() if not _unticked(name, text)}
    return {"sent": "1", "from": "", "looked": "", "do": "look", **plain}


def _unticked(name: str, text: str) -> bool:
    row = forms.offered().get(name)
    return row is not None and row.kind == "boolean" and text == "false"


def token_of(browser: TestClient) -> str:
    found = re.search(r'name="token" value="([^"]+)"', browser.get("/studio/fine-tune").text)
    assert found is not None
    return found[1]


def send(browser: TestClient, form: Mapping[str, str], **files: tuple[str, bytes]) -> Any:
    """The form as a browser sends it: with files, and the token before them."""
    fields = {"token": token_of(browser), **form}
    parts: list[tuple[str, Any]] = [(k, (None, v)) for k, v in fields.items()]
    parts += list(files.items())
    return browser.post("/studio/fine-tune", files=parts, headers=ORIGIN)
