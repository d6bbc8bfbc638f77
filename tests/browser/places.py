"""Every page of the studio, over a store that has something of everything."""

from __future__ import annotations

from studio_store import (
    metric_rows,
    put_data,
    put_many,
    put_model,
    put_run,
    sample,
    training_folder,
    write_log,
    write_metrics,
    write_result,
)

from finery.workspace.place import Workspace

RUN_TABS = ("", "/result", "/details", "/log")
PLACES = (
    *("", "jobs", "fine-tune", "compare", "compare?run=run&run=other"),
    *("models", "models/model", "data", "data/set", "endpoints", "deploy", "chat", "nowhere"),
    *(f"jobs/run{tab}" for tab in RUN_TABS),
    *("jobs/other", "jobs/other/log", "jobs/broken"),
)


def furnish(workspace: Workspace, text: str = "Ferries & <timetables>") -> None:
    """Runs that ended, run and failed, a model and data, with `text` wherever people put words."""
    put_many(workspace, 120)
    steps = put_run(workspace, "run", display_name=text, description=text, tags={text: text})
    other = put_run(workspace, "other", "Running", settings={"learning_rate": text})
    fault = {"code": "UserError", "message": f"train.jsonl, row 3: {text}"}
    put_run(workspace, "broken", "Failed", error=fault, display_name=text)
    for one in (steps, other):
        folder = training_folder(workspace, one)
        write_metrics(folder, metric_rows(600), 1000)
        write_metrics(folder, [{"step": 1, text: 1.0}, {"step": 2, text: 2.0}])
    write_result(workspace, steps, [sample(text, text, text)])
    write_log(workspace, "run", f"{text}\n" * 50, pipeline=True)
    write_log(workspace, "other", f"{text}\n" * 50, pipeline=True)
    put_model(workspace, "model", "run", base_model=text)
    put_data(workspace, "set", "rows.jsonl", '{"messages": []}\n' + f"{text}\n")
