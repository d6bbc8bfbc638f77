"""Where the outputs of a job come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from finery.jobs.lineage import lineage
from finery.jobs.spec import Asset, StepOutput, StepSpec

Step = Callable[..., StepSpec]


def test_lineage_names_model_data_settings_steps_and_packages(
    server: Any, step: Step, after: Callable[..., Any]
) -> None:
    root = server.workspace.blobs / "azureml-blobstore"
    (root / "base").mkdir(parents=True)
    (root / "base" / "config.json").write_text("{}")
    (root / "rows.jsonl").write_text("{}\n")
    store = "azureml://datastores/workspaceblobstore/paths"
    job = server.run(
        step("import", "echo", {"model": Asset(f"{store}/base", "custom_model")}),
        step("prepare", "echo", {"rows": Asset(f"{store}/rows.jsonl", "uri_file")}),
        step("tune", "echo", {**after("import", "prepare"), "lora_r": "8"}),
        step("aside", "echo", {"unused": "1"}),
        outputs={"model": StepOutput("tune", "out")},
    )
    found = lineage(server.workspace, job.name)
    json.dumps(found)
    assert [s["step"] for s in found["steps"]] == ["import", "prepare", "tune", "aside"]
    assert found["base_model"]["uri"].endswith("/base")
    assert [d["uri"].rsplit("/", 1)[-1] for d in found["data"]] == ["rows.jsonl"]
    assert len(found["data"][0]["content_hash"]) == 64
    assert found["settings"] == {"lora_r": "8", "unused": "1"}
    assert found["packages"]["finery"]
    assert str(server.workspace.folder) not in json.dumps(found)


def test_lineage_of_a_step_is_of_what_it_read(
    server: Any, step: Step, after: Callable[..., Any]
) -> None:
    job = server.run(
        step("a", "echo", {"x": "1"}),
        step("b", "echo", after("a")),
        step("aside", "echo", {"y": "2"}),
    )
    found = lineage(server.workspace, server.steps(job)["b"].name)
    assert {s["step"] for s in found["steps"]} == {"a", "b"}
    assert found["settings"] == {"x": "1"}
    assert found["base_model"] is None
