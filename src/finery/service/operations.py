"""What each operation of the azure-ai-ml SDK gets from finery; the page is made from this table.

    python -m finery.service.operations         rewrites docs/reference/operations.md

The tests call every operation that works through the SDK itself, ask one of each refused group,
and compare the table with the operations that the SDK has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finery.files import write_atomic

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "operations.md"

WORKS = "works"
REFUSED = "refused"  # 501 or 400, with a sentence that says so
CLIENT = "in the client"  # the SDK does not ask this service


@dataclass(frozen=True)
class Operation:
    """Methods of one attribute of MLClient that finery answers alike."""

    group: str  # the attribute
    methods: tuple[str, ...]
    answer: str
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """`group.method` of each."""
        return tuple(f"{self.group}.{method}" for method in self.methods)


def _works(group: str, methods: str, note: str = "") -> Operation:
    return Operation(group, tuple(methods.split()), WORKS, note)


def _refused(group: str, methods: str, note: str = "") -> Operation:
    return Operation(group, tuple(methods.split()), REFUSED, note)


def _client(group: str, methods: str, note: str = "") -> Operation:
    return Operation(group, tuple(methods.split()), CLIENT, note)


OPERATIONS = (
    _works("jobs", "create_or_update", "pipeline, command and fine-tuning jobs"),
    _works("jobs", "get list stream show_services"),
    _works("jobs", "begin_cancel", "the step's processes end within seconds"),
    _works("jobs", "download", "outputs and logs"),
    _works("jobs", "archive restore update", "tags, display name and description can change"),
    _works("jobs", "begin_delete", "of a job that has ended"),
    _works("jobs", "validate", "the SDK's own checks; the service makes all of its at submission"),
    _works("models", "create_or_update get list archive restore download", "workspace, registry"),
    _refused("models", "package", "deployments need no image"),
    _works("models", "share", "to a registry, files and all"),
    _works("data", "create_or_update get list archive restore", "files, folders, MLTables"),
    _works("data", "share"),
    _refused("data", "import_data"),
    _client("data", "list_materialization_status", "fails in the SDK itself (1.35)"),
    _client("data", "mount", "jobs open data by path"),
    _works("components", "create_or_update get list archive restore", "workspace, registry"),
    _works("components", "validate"),
    _client("components", "prepare_for_sign"),
    _works("components", "download"),
    _works("environments", "create_or_update get list archive restore", "kept, never built"),
    _works("environments", "share"),
    _works("datastores", "get get_default list create_or_update delete"),
    _client("datastores", "mount", "data of a datastore is files in the service's folder"),
    _works("compute", "begin_create_or_update get list begin_delete", "AmlCompute"),
    _works("compute", "begin_update list_nodes list_sizes list_usage", "this machine's figures"),
    _refused("compute", "begin_attach begin_restart begin_start begin_stop enable_sso"),
    _works("online_endpoints", "begin_create_or_update get list begin_delete", "key and token"),
    _works("online_endpoints", "get_keys begin_regenerate_keys invoke"),
    _works("online_deployments", "begin_create_or_update get list get_logs begin_delete"),
    _works("workspaces", "get list", "one service is one workspace, whatever it is called"),
    _refused(
        "workspaces",
        "begin_create begin_delete begin_diagnose begin_provision_network begin_sync_keys "
        "begin_update get_keys",
        "`finery up` makes the workspace",
    ),
    _refused("registries", "begin_create begin_delete get list", "named in settings.yaml"),
    _works("evaluators", "create_or_update download get list", "models with a mark of their own"),
    _refused(
        "schedules", "begin_create_or_update begin_delete begin_disable begin_enable get list"
    ),
    _refused("schedules", "trigger"),
    _refused("batch_endpoints", "begin_create_or_update begin_delete get invoke list list_jobs"),
    _refused("batch_deployments", "begin_create_or_update begin_delete get list list_jobs"),
    _refused("connections", "create_or_update delete get list"),
    _refused("indexes", "build_index create_or_update get list"),
    _refused(
        "feature_sets",
        "archive begin_backfill begin_create_or_update get get_feature list list_features "
        "list_materialization_operations restore",
    ),
    _refused("feature_store_entities", "archive begin_create_or_update get list restore"),
    _refused(
        "feature_stores", "begin_create begin_delete begin_provision_network begin_update get list"
    ),
    _refused(
        "serverless_endpoints",
        "begin_create_or_update begin_delete begin_regenerate_keys get get_keys list",
    ),
    _refused("marketplace_subscriptions", "begin_create_or_update begin_delete get list"),
    _refused("workspace_outbound_rules", "begin_create begin_remove begin_update get list"),
    _refused("capability_hosts", "begin_create_or_update begin_delete get"),
    _refused("azure_openai_deployments", "list"),
    _client(
        "deployment_templates",
        "archive create_or_update delete get list restore",
        "the SDK asks an address of Azure's, whatever it is told",
    ),
)


def operation_names(answer: str) -> frozenset[str]:
    """Every `group.method` with this answer."""
    return frozenset(name for one in OPERATIONS if one.answer == answer for name in one.names)


def operations_markdown() -> str:
    """The reference page of the SDK's operations."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The Azure ML SDK with finery"
    yield ""
    yield "<!-- Made by `python -m finery.service.operations`. Do not edit. -->"
    yield ""
    yield (
        "What each operation of `MLClient` (azure-ai-ml 1.35) does against finery. *works*: "
        "tested through the unmodified SDK. *refused*: an error of the service says what it does "
        "not have. *in the client*: this service is not asked."
    )
    yield ""
    yield "| operations | answer | |"
    yield "|---|---|---|"
    for one in OPERATIONS:
        methods = ", ".join(f"`{method}`" for method in one.methods)
        yield f"| `{one.group}`: {methods} | {one.answer} | {one.note} |"


def main() -> None:
    """Rewrite the reference page."""
    write_atomic(PAGE, operations_markdown())
    print(PAGE)


if __name__ == "__main__":
    main()
