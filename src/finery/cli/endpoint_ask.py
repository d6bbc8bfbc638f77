"""`finery endpoint test`: one question to an endpoint, as Azure ML's clients ask it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from finery.cli.client import connect
from finery.cli.endpoint_changes import KIND, key_of
from finery.cli.tables import AsJson, print_json
from finery.errors import Fault, FineryError, InputError

DEPLOYMENT_HEADER = "azureml-model-deployment"


def ask(
    name: Annotated[str, typer.Argument(help="The name of an endpoint.")],
    message: Annotated[str, typer.Option(help="What to say to the model.")] = "",
    request_file: Annotated[
        Path | None, typer.Option(help="A file with the whole JSON body instead.", exists=True)
    ] = None,
    deployment: Annotated[str, typer.Option(help="Ask this one, whatever the traffic.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Ask the model at an endpoint one question."""
    if bool(message) == (request_file is not None):
        raise InputError([Fault("question", "both or neither", "--message or --request-file")])
    if request_file is not None:
        content = request_file.read_bytes()
    else:
        parameters = {"max_new_tokens": max_new_tokens}
        turns = [{"role": "user", "content": message}]
        asked = {"input_data": {"input_string": turns, "parameters": parameters}}
        content = json.dumps(asked).encode()
    service = connect()
    key = key_of(service, name)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    if deployment:
        headers[DEPLOYMENT_HEADER] = deployment
    address = service.get(KIND, name)["properties"]["scoringUri"]
    answer = service.send(
        service.http.build_request("POST", address, content=content, headers=headers)
    ).json()
    if as_json:
        print_json(answer)
    else:
        _print_answer(answer)


def _print_answer(answer: Any) -> None:
    """The text of an answer of any of the server's shapes."""
    from finery.evaluation.markup import plain

    rows = answer if isinstance(answer, list) else [answer]
    for row in rows:
        output = row.get("output", row) if isinstance(row, dict) else row
        if isinstance(output, dict | list) or output is None:
            raise FineryError(f"The endpoint answered {json.dumps(row)[:400]}.")
        typer.echo(plain(str(output)))
