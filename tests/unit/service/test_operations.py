"""The page of the SDK's operations says what the table says."""

from __future__ import annotations

from finery.service.operations import (
    CLIENT,
    OPERATIONS,
    REFUSED,
    WORKS,
    operation_names,
    operations_markdown,
)


def test_no_operation_stands_twice() -> None:
    names = [name for one in OPERATIONS for name in one.names]
    assert len(names) == len(set(names))
    assert set(names) == operation_names(WORKS) | operation_names(REFUSED) | operation_names(CLIENT)


def test_every_operation_is_on_the_page_with_its_answer() -> None:
    rows = [line.split("|") for line in operations_markdown().splitlines() if line[:3] == "| `"]
    assert len(rows) == len(OPERATIONS)
    for cells, one in zip(rows, OPERATIONS, strict=True):
        assert len(cells) == 5
        assert all(f"`{method}`" in cells[1] for method in one.methods)
        assert cells[2].strip() == one.answer


def test_the_walkthroughs_operations_work() -> None:
    used = {
        *("models.get", "components.get", "compute.get", "compute.begin_create_or_update"),
        *("compute.list_sizes", "jobs.create_or_update", "jobs.stream", "jobs.get"),
        *("models.create_or_update", "online_endpoints.begin_create_or_update"),
        *("online_deployments.begin_create_or_update", "online_endpoints.invoke"),
        "online_endpoints.begin_delete",
    }
    assert used <= operation_names(WORKS)
