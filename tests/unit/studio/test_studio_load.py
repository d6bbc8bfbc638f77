"""What a page asks of the store does not grow with what the workspace holds."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from starlette.testclient import TestClient
from studio_store import metric_rows, put_data, put_many, put_model, put_run, training_folder
from studio_store import write_metrics as write

from finery.studio import fine_tune_models
from finery.studio.assets import bundle
from finery.workspace.place import Workspace

PAGES = (
    *("", "now", "jobs", "jobs?q=number", "compare?run=run&run=run-1", "models", "models/model-0"),
    *("data", "data/set-0", "jobs/run", "jobs/run/state", "jobs/run/result", "jobs/run/details"),
    *("endpoints", "fine-tune", "chat"),
)


def statements(browser: TestClient, workspace: Workspace) -> dict[str, int]:
    """How often each page asks the store."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    sa.event.listen(workspace.store.engine, "before_cursor_execute", note)
    found = {}
    for page in PAGES:
        asked.clear()
        assert browser.get(f"/studio/{page}").status_code == 200, page
        found[page] = len(asked)
    sa.event.remove(workspace.store.engine, "before_cursor_execute", note)
    return found


def fill(workspace: Workspace, numbers: Iterable[int]) -> None:
    """A run, a model and data of each number."""
    for number in numbers:
        put_run(workspace, f"run-{number}")
        put_model(workspace, f"model-{number}", "run")
        put_data(workspace, f"set-{number}", "rows.jsonl", '{"messages": []}\n')


def test_no_page_asks_once_for_each_job_model_or_data_asset(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "run")
    fill(workspace, range(2))
    before = statements(browser, workspace)
    fill(workspace, range(2, 12))
    put_many(workspace, 300)
    after = statements(browser, workspace)
    # the form looks where each of the newest models lies, up to a number of them
    assert after.pop("fine-tune") <= before.pop("fine-tune") + 2 * fine_tune_models.MOST
    assert after == before


def test_curves_of_ten_thousand_points_are_thinned_before_they_are_sent(
    browser: TestClient, workspace: Workspace
) -> None:
    folder = training_folder(workspace, put_run(workspace, "run"))
    write(folder, metric_rows(10_000))
    answer = browser.get("/studio/jobs/run/metrics")
    assert answer.json()["series"]["loss"]["count"] == 10_000
    assert int(answer.headers["content-length"]) < 25_000


def test_the_files_that_every_page_loads_are_small(browser: TestClient) -> None:
    weight = sum(len(file.packed) for file in bundle().files.values())
    page = browser.get("/studio/")
    assert weight + len(page.content) < 150_000
