"""A training run that is killed and started again gives the weights it would have given."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from kill import MODES, Kill, Outcome, main, prove, table


def test_a_run_killed_three_times_ends_with_the_same_weights(tmp_path: Path) -> None:
    outcomes = prove("single", 3, seed=1, folder=tmp_path)
    assert sum(len(outcome.kills) for outcome in outcomes) >= 3
    assert all(outcome.same for outcome in outcomes), table(outcomes)


@pytest.mark.full
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode", MODES)
def test_twenty_kills_in_every_mode_leave_the_weights_as_they_are(
    mode: str, tmp_path: Path
) -> None:
    outcomes = prove(mode, 20, seed=0, folder=tmp_path)
    assert all(outcome.same for outcome in outcomes), table(outcomes)


def test_other_weights_are_reported_and_fail_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = (Kill("save", 1.5, "step 3"),)
    for found, status, words in (("a" * 64, 0, "identical"), ("b" * 64, 1, "DIFFERS")):
        outcome = Outcome("single", kills, "a" * 64, found)
        monkeypatch.setattr("kill.prove", lambda *_, made=outcome: [made])
        assert main(["--modes", "single", "--kills", "1"]) == status
        assert words in capsys.readouterr().out
