"""A step loads what it works with: most of a short pipeline would else be imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "mlflow", "datasets", "peft", "accelerate", "deepspeed", "pandas")
LOADS = {
    "run": set(),
    "validation": set(),
    "model_import": set(),
    "preprocess": {"transformers"},
    "converter": set(),
    "finetune": {"torch", "transformers", "peft", "accelerate"},
    "evaluation": {"torch", "transformers", "peft", "accelerate"},
}


@pytest.mark.parametrize("module", LOADS)
def test_a_step_loads_no_library_that_it_does_not_use(module: str) -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None; "
        f"import finery.components.{module}; print(' '.join(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert set(answer.stdout.split()) & set(HEAVY) == LOADS[module]


def test_the_spec_and_its_checks_load_none_of_them() -> None:
    code = (
        "import sys, finery.components.finetuning_job, finery.components.spec as spec; "
        "spec.check_inputs(spec.load_specs()[spec.PIPELINE], {}, [], ''); "
        "print(' '.join(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not set(answer.stdout.split()) & {*HEAVY, "numpy"}
