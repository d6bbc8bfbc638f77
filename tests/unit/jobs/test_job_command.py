"""The words of a command: values and paths in the place of names."""

from __future__ import annotations

import pytest

from finery.errors import InputError
from finery.jobs.command import filled
from finery.jobs.spec import StepSpec

INPUTS = {
    "rows": {"path": "/data/rows.jsonl"},
    "lr": {"value": "5e-06"},
    "base": {"source": "org/model"},
}
OUTPUTS = {"model": {"path": "/out/model"}}


def text(command: str) -> str:
    return filled(StepSpec("a", command=command), INPUTS, OUTPUTS)


def test_names_become_values_and_paths() -> None:
    command = "train ${{inputs.rows}} ${{ inputs.lr }} ${{inputs.base}} ${{outputs.model}}"
    assert text(command) == "train /data/rows.jsonl 5e-06 org/model /out/model"


def test_what_is_optional_and_not_given_is_left_out() -> None:
    assert text("train $[[--eval ${{inputs.eval}}]] x") == "train  x"
    assert text("train $[[--rows ${{inputs.rows}}]]") == "train --rows /data/rows.jsonl"


def test_shell_variables_are_left_to_the_shell() -> None:
    assert text("echo ${HOME} $PATH $(date) ${#x}") == "echo ${HOME} $PATH $(date) ${#x}"


def test_every_name_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(InputError) as caught:
        text("train ${{inputs.row}} ${{outputs.rows}}")
    assert len(caught.value.faults) == 2
