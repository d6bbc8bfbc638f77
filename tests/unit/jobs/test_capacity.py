"""Who may use the machine: first come, first served, and nothing shared out twice."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from finery.jobs.capacity import Machine, Need, claim, need_of, release, this_machine
from finery.jobs.spec import StepSpec
from finery.jobs.tables import leases
from finery.runners.base import Devices
from finery.workspace.place import Workspace

TRAIN = StepSpec("t", entry="finery:chat_completion_finetune", process_count=8)
LIGHT = StepSpec("l", entry="finery:ft_nlp_common_validation")
COMMAND = StepSpec("c", command="echo")
TWO = Machine(cores=2)


def ask(workspace: Workspace, job: str, need: Need, machine: Machine = TWO) -> Devices | None:
    with workspace.store.write() as connection:
        return claim(connection, job, need, machine)


def give_back(workspace: Workspace, job: str) -> None:
    with workspace.store.write() as connection:
        release(connection, job)


def test_cores_are_shared_out_until_there_are_none(workspace: Workspace) -> None:
    found = [ask(workspace, job, Need(1)) for job in ("a", "b", "c")]
    assert found == [Devices(1), Devices(1), None]
    give_back(workspace, "a")
    assert ask(workspace, "c", Need(1)) == Devices(1)


def test_asking_again_changes_nothing(workspace: Workspace) -> None:
    for _ in range(3):
        assert ask(workspace, "a", Need(2)) == Devices(2)
        assert ask(workspace, "b", Need(1)) is None
    with workspace.store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(leases)).scalar() == 2


def test_small_claims_do_not_pass_a_large_one(workspace: Workspace) -> None:
    ask(workspace, "a", Need(1))
    assert ask(workspace, "large", Need(2)) is None
    assert ask(workspace, "small", Need(1)) is None
    give_back(workspace, "a")
    assert ask(workspace, "small", Need(1)) is None
    assert ask(workspace, "large", Need(2)) == Devices(2)
    give_back(workspace, "large")
    assert ask(workspace, "small", Need(1)) == Devices(1)


def test_a_claim_that_is_withdrawn_lets_the_next_one_pass(workspace: Workspace) -> None:
    ask(workspace, "a", Need(1))
    ask(workspace, "large", Need(2))
    give_back(workspace, "large")
    assert ask(workspace, "small", Need(1)) == Devices(1)


def test_each_gpu_belongs_to_one_step(workspace: Workspace) -> None:
    machine = Machine(8, (0, 1, 5))
    assert ask(workspace, "a", Need(1, 2), machine) == Devices(1, (0, 1))
    assert ask(workspace, "b", Need(1, 2), machine) is None
    give_back(workspace, "a")
    assert ask(workspace, "b", Need(1, 2), machine) == Devices(1, (0, 1))
    assert ask(workspace, "c", Need(1, 1), machine) == Devices(1, (5,))


def test_a_claim_from_a_larger_machine_is_met_with_what_is_there(workspace: Workspace) -> None:
    large = Machine(64, tuple(range(8)))
    ask(workspace, "a", Need(2))
    assert ask(workspace, "b", Need(64, 8), large) is None
    give_back(workspace, "a")
    assert ask(workspace, "b", Need(64, 8)) == Devices(2)


@pytest.mark.parametrize(
    ("step", "machine", "size_gpus", "need"),
    [
        (TRAIN, Machine(4), 8, Need(4)),
        (TRAIN, Machine(4, (0,)), 8, Need(1, 1)),
        (TRAIN, Machine(64, tuple(range(8))), 0, Need(1, 8)),
        (LIGHT, Machine(4, (0,)), 8, Need(1)),
        (COMMAND, Machine(4, (0,)), 0, Need(1)),
        (COMMAND, Machine(4, (0, 1)), 1, Need(1, 1)),
        (COMMAND, Machine(4), 8, Need(1)),
    ],
)
def test_what_a_step_wants_of_a_machine(
    step: StepSpec, machine: Machine, size_gpus: int, need: Need
) -> None:
    assert need_of(step, machine, size_gpus) == need


def test_this_machine_has_a_core() -> None:
    assert this_machine().cores >= 1
