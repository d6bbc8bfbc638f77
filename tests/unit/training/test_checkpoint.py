"""Checkpoints are whole or passed over, pruned with care, and hold the optimizer exactly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.optimization import Adafactor

from finery.errors import FineryError
from finery.training.checkpoint import (
    Progress,
    checkpoint_path,
    load_optimizer_tensors,
    newest_checkpoint,
    optimizer_state,
    prune_checkpoints,
    read_progress,
    restore_optimizer,
    save_checkpoint,
)

PROGRESS = Progress(step=3, best_loss=1.5, best_step=2, tokens=400, seconds=0.25, train_loss=2.0)
STATE = {"w|exp_avg": torch.arange(6.0).view(2, 3)}


def save(checkpoints: Path, progress: Progress = PROGRESS, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "rank": 0,
        "barrier": lambda: None,
        "write_weights": lambda folder: save_file({"w": torch.ones(2)}, folder / "w.safetensors"),
        "optimizer_tensors": STATE,
        "every_rank": False,
        **changes,
    }
    save_checkpoint(checkpoints, progress, "fingerprint", **given)
    return checkpoint_path(checkpoints, progress.step)


def save_steps(checkpoints: Path, *steps: int) -> None:
    for step in steps:
        save(checkpoints, Progress(step=step))


def steps_in(checkpoints: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in checkpoints.iterdir())


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    folder = save(tmp_path)
    assert newest_checkpoint(tmp_path) == folder
    assert read_progress(folder, "fingerprint") == PROGRESS
    tensors = load_optimizer_tensors(folder, 0)
    assert torch.equal(tensors["w|exp_avg"], STATE["w|exp_avg"])
    assert steps_in(tmp_path) == [3]


def test_a_checkpoint_of_other_settings_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = save(tmp_path / "run" / "checkpoints")
    with pytest.raises(FineryError, match=r"other settings or data.*--overwrite-output") as caught:
        read_progress(folder, "another")
    assert str(tmp_path / "run") in str(caught.value)


def truncate(folder: Path) -> None:
    weights = folder / "w.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "optimizer-0.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "optimizer-0.safetensors").write_bytes(bytes(data))


BREAKS: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "torn manifest": lambda folder: (folder / "manifest.json").write_text('{"files": {"w.saf'),
    "empty manifest": lambda folder: (folder / "manifest.json").write_text("{}"),
    "file missing": lambda folder: (folder / "progress.json").unlink(),
    "file cut short": truncate,
    "bit flipped": flip_a_bit,
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_newest_checkpoint_is_passed_over_for_the_one_before(
    name: str, tmp_path: Path
) -> None:
    save_steps(tmp_path, 2, 4, 6)
    BREAKS[name](checkpoint_path(tmp_path, 6))
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 4)
    BREAKS[name](checkpoint_path(tmp_path, 4))
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 2)
    BREAKS[name](checkpoint_path(tmp_path, 2))
    assert newest_checkpoint(tmp_path) is None


def test_without_any_checkpoint_a_run_starts_at_the_beginning(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "never made") is None
    (tmp_path / ".tmp-step-00000004").mkdir()
    assert newest_checkpoint(tmp_path) is None


def test_a_crash_while_saving_leaves_the_checkpoints_before_it(tmp_path: Path) -> None:
    save_steps(tmp_path, 2)

    def crash(folder: Path) -> None:
        (folder / "w.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, Progress(step=4), write_weights=crash)
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 2)
    folder = save(tmp_path, Progress(step=4))  # the next start comes to the same step
    assert newest_checkpoint(tmp_path) == folder
    assert (folder / "w.safetensors").read_bytes() != b"half"


def test_what_killed_processes_left_behind_is_cleared_at_the_next_save(tmp_path: Path) -> None:
    for name in (".tmp-step-00000002", ".tmp-old-step-00000001", ".tmp-0123-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_bytes(b"x")
    save_steps(tmp_path, 1, 4)
    prune_checkpoints(tmp_path, 1, keep=set())
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000004"]


def test_a_broken_checkpoint_is_replaced_when_the_run_comes_there_again(tmp_path: Path) -> None:
    save_steps(tmp_path, 2, 4)
    truncate(checkpoint_path(tmp_path, 4))
    save_steps(tmp_path, 4)
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 4)


def test_under_zero_each_process_keeps_its_own_part(tmp_path: Path) -> None:
    """Rank 1's call is played between rank 0's barriers, as the two would meet there."""
    calls: list[int] = []

    def meet() -> None:
        calls.append(1)
        if len(calls) == 1:
            other = {"0|slice": torch.full((2,), 7.0)}
            (tmp_path / ".tmp-step-00000003").mkdir(exist_ok=True)
            file = tmp_path / ".tmp-step-00000003" / "optimizer-1.safetensors"
            save_file(other, file)

    folder = save(tmp_path, every_rank=True, barrier=meet)
    assert len(calls) == 3
    assert torch.equal(load_optimizer_tensors(folder, 1)["0|slice"], torch.full((2,), 7.0))
    assert "w|exp_avg" in load_optimizer_tensors(folder, 0)


def test_other_processes_write_nothing_where_one_owns_the_optimizer(tmp_path: Path) -> None:
    save(tmp_path, rank=1)
    assert list(tmp_path.iterdir()) == []


def test_pruning_keeps_the_newest_and_those_named(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3, 4, 5)
    prune_checkpoints(tmp_path, 2, keep={2})
    assert steps_in(tmp_path) == [2, 4, 5]
    prune_checkpoints(tmp_path, 1, keep={2})
    assert steps_in(tmp_path) == [2, 5]


def test_without_a_limit_nothing_is_pruned(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3)
    prune_checkpoints(tmp_path, -1, keep=set())
    prune_checkpoints(tmp_path, 5, keep=set())
    assert steps_in(tmp_path) == [1, 2, 3]


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1)


def adafactor(parameters: Any) -> torch.optim.Optimizer:
    return Adafactor(parameters, lr=0.1, scale_parameter=False, relative_step=False)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        model(x).square().sum().backward()
        optimizer.step()


def names_of(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("make", [adamw, adafactor])
def test_a_restored_optimizer_goes_on_bit_for_bit(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = make(first.parameters())
    train(first, optimizer, range(3))
    saved = copy.deepcopy(first.state_dict())
    state = optimizer_state(optimizer, names_of(first))
    folder = save(tmp_path, optimizer_tensors=state)
    train(first, optimizer, range(3, 6))

    second = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    second.load_state_dict(saved)
    again = make(second.parameters())
    restore_optimizer(again, names_of(second), load_optimizer_tensors(folder, 0))
    train(second, again, range(3, 6))
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("make", [adamw, adafactor])
def test_numbers_in_the_optimizers_state_keep_their_kind(make: Any) -> None:
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    train(model, optimizer, range(2))
    restored = make(model.parameters())
    restore_optimizer(restored, names_of(model), optimizer_state(optimizer, names_of(model)))
    for parameter, entries in optimizer.state.items():
        kept = {key: value for key, value in entries.items() if value is not None}
        assert restored.state[parameter].keys() == kept.keys()
        for key, value in kept.items():
            assert type(restored.state[parameter][key]) is type(value), key


def test_optimizer_state_of_an_unknown_parameter_is_refused() -> None:
    model = nn.Linear(3, 2)
    tensors = {"other.weight|exp_avg": torch.zeros(2, 3)}
    with pytest.raises(FineryError, match=r"has optimizer state for other\.weight"):
        restore_optimizer(adamw(model.parameters()), names_of(model), tensors)


def test_progress_is_plain_json(tmp_path: Path) -> None:
    value = json.loads((save(tmp_path) / "progress.json").read_text())
    assert value["fingerprint"] == "fingerprint"
    assert value["step"] == 3
