"""`finery plan`: what a run would take, measured, and what would fit where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finery.cli.main import app
from finery.cli.plan import duration
from finery.errors import InputError
from finery.planning import machine
from finery.planning.calibration import Calibration, Sample
from finery.recipe.inputs import SETTINGS
from finery.recipe.resolve import Resolved
from finery.training import calibrate
from finery.training.job import TrainJob


@pytest.fixture
def words(tiny_recipe: Callable[..., Resolved], own_home: Path) -> list[str]:
    made = tiny_recipe().recipe
    names = ("model", "train_file_path", "test_file_path", "apply_lora", "output_dir")
    given = {name: str(getattr(made, name)) for name in names}
    sizes = {"max_steps": "7", "per_device_train_batch_size": "4", "device": "cpu"}
    return [word for name, value in {**given, **sizes}.items() for word in (f"--{name}", value)]


@pytest.fixture(autouse=True)
def probed(monkeypatch: pytest.MonkeyPatch) -> list[TrainJob]:
    jobs: list[TrainJob] = []

    def probe(job: TrainJob, *_: Any) -> Calibration:
        jobs.append(job)
        sample = Sample(1e6, 100, 0.01, 300 << 20)
        return Calibration((sample,), 0.1, 0.0, 0.0, 5000, 200 << 20, 250 << 20, 300 << 20, 3.0)

    monkeypatch.setattr(calibrate, "_probe", probe)
    return jobs


def plan(*words: str) -> str:
    done = CliRunner().invoke(app, ["plan", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return " ".join(done.output.split())


def test_the_help_lists_every_input() -> None:
    text = plan("--help")
    for row in SETTINGS.values():
        assert "--" + row.name.replace("_", "-") in text


def test_a_plan_says_speed_time_memory_and_disk_and_writes_no_run(
    words: list[str], probed: list[TrainJob], tmp_path: Path
) -> None:
    text = plan(*words)
    assert "7 steps" in text
    for known in ("tokens/s", "of training (within 20 %)", "GiB of memory a process", "of disk"):
        assert known in text
    assert not (tmp_path / "run").exists()
    assert plan(*words).count("tokens/s") == 1
    assert len(probed) == 1  # the second one remembers


def test_a_plan_that_does_not_fit_is_shown_and_refused_with_what_would(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda device: 1)
    with pytest.raises(InputError, match=r"this machine has 0\.0 GiB"):
        plan(*words)


@pytest.mark.parametrize(
    ("seconds", "said"), [(42.4, "42 s"), (187, "3:07 min"), (9000, "2:30 h"), (59.9, "60 s")]
)
def test_a_duration_is_said_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
