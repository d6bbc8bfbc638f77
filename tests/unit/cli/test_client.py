"""The command line asks the service, waits for what it started, and repeats its refusals."""

from __future__ import annotations

import httpx
import pytest
from scripted_service import WORKSPACE, Script, service_on

from finery.cli.client import RefusedInput, Service, connect, refusal
from finery.cli.main import EXIT_STATUSES
from finery.errors import FineryError
from finery.files import home, write_json
from finery.workspace import errors


def _error(status: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": "X", "message": message}})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RefusedInput),
        (401, errors.UnauthenticatedError),
        (404, errors.NotFoundError),
        (409, errors.ConflictError),
        (501, errors.NotImplementedHereError),
        (503, errors.UnavailableError),
        (424, FineryError),
    ],
)
def test_a_refusal_keeps_its_kind_and_its_words(status: int, kind: type[FineryError]) -> None:
    error = refusal(_error(status, "The name is wrong. Take another."))
    assert type(error) is kind
    assert str(error) == "The name is wrong. Take another."


def test_a_refusal_without_json_is_still_said() -> None:
    assert "502" in str(refusal(httpx.Response(502, text="upstream")))
    assert str(refusal(httpx.Response(418))) == "I'm a teapot"


def test_faults_in_the_input_have_the_exit_status_of_faults() -> None:
    assert EXIT_STATUSES[RefusedInput.exit_status].startswith("faults in the input")


def test_without_a_service_the_remedy_is_named() -> None:
    with pytest.raises(errors.UnavailableError, match="finery up"):
        connect()


def test_a_service_that_died_counts_as_none() -> None:
    gone = {"pid": 2**22 + 1, "started": 1.0, "host": "127.0.0.1", "port": 1, "http_port": 2}
    more = {"url": "https://localhost:1", "http_url": "http://127.0.0.1:2", "version": "0"}
    write_json(home() / "service" / "service.json", gone | more)
    with pytest.raises(errors.UnavailableError, match="finery up"):
        connect()


def test_names_cannot_reach_out_of_their_place(script: Script) -> None:
    with pytest.raises(errors.NotFoundError):
        service_on(script).get("jobs", "../../secrets?x=1")
    (request,) = script.asked
    assert request.url.raw_path.split(b"?")[0].endswith(b"/jobs/..%2F..%2Fsecrets%3Fx%3D1")


def test_lists_are_read_page_after_page_and_no_further_than_wanted(script: Script) -> None:
    more = f"https://here{WORKSPACE}/jobs?page=2"
    script.on("GET /jobs", {"value": [1, 2], "nextLink": more}, {"value": [3]})
    assert list(service_on(script).items("jobs")) == [1, 2, 3]
    assert len(script.asked) == 2
    script.on("GET /jobs", {"value": [1, 2], "nextLink": more})
    assert next(service_on(script).items("jobs")) == 1
    assert len(script.asked) == 3


def _states(*states: str) -> list[dict[str, object]]:
    return [{"name": "c", "properties": {"provisioningState": state}} for state in states]


def test_it_waits_for_a_resource_that_is_being_made(script: Script) -> None:
    fast = {"retry-after-ms": "1"}
    script.on("PUT /computes/c", *_states("Creating"), status=201, **fast)
    script.on("GET /computes/c", *_states("Creating", "Succeeded"))
    service = service_on(script)
    made = service.finish(service.ask("PUT", "computes", "c", body={}))
    assert made["properties"]["provisioningState"] == "Succeeded"


def test_a_failed_operation_is_an_error_in_its_own_words(script: Script) -> None:
    operation = {"azure-asyncoperation": "https://here/operations/1", "retry-after-ms": "1"}
    script.on("PUT /d", {"properties": {"provisioningState": "Creating"}}, **operation)
    failed = {"status": "Failed", "error": {"code": "X", "message": "The model is not there."}}
    script.on("GET /operations/1", {"status": "InProgress"}, failed)
    service = service_on(script)
    with pytest.raises(FineryError, match="The model is not there"):
        service.finish(service.ask("PUT", "d", body={}))


def test_it_waits_until_a_deleted_resource_is_gone(script: Script) -> None:
    place = {"location": "https://here/operations/2", "retry-after-ms": "1"}
    script.on("DELETE /c", None, status=202, **place)
    script.on("GET /operations/2", None, status=202, **place)
    script.answers["GET /operations/2"].append(httpx.Response(204))
    service = service_on(script)
    assert service.finish(service.ask("DELETE", "c")) is None
    assert [request.method for request in script.asked] == ["DELETE", "GET", "GET"]


def test_a_service_that_does_not_answer_is_named() -> None:
    service = Service(httpx.Client(base_url="https://127.0.0.1:1", timeout=2), "/g", "w")
    with pytest.raises(errors.UnavailableError, match=r"127\.0\.0\.1:1 .*finery doctor"):
        service.get("jobs")
