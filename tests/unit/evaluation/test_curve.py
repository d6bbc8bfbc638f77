"""The loss curve in plain characters."""

from __future__ import annotations

from finery.evaluation.curve import HEIGHT, WIDTH, loss_curve


def _plot(text: str) -> list[str]:
    """The lines of the plot without their labels."""
    return [line.split("│")[1] for line in text.splitlines() if "│" in line]


def test_a_falling_loss_goes_from_top_left_to_bottom_right() -> None:
    text = loss_curve([{"step": n, "loss": 10.0 - n} for n in range(1, 10)])
    plot = _plot(text)
    assert len(plot) == HEIGHT
    assert plot[0].startswith("·")
    assert plot[-1].rstrip().endswith("·") and len(plot[-1]) == WIDTH
    assert "9.0000" in text.splitlines()[0] and "1.0000" in text.splitlines()[HEIGHT - 1]
    assert "step 1" in text and "step 9" in text


def test_held_out_losses_have_a_mark_of_their_own() -> None:
    text = loss_curve([{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.0}])
    assert "o" in "".join(_plot(text))
    assert "o held-out loss" in text
    assert "held-out" not in loss_curve([{"step": 1, "loss": 2.0}])


def test_losses_that_are_no_number_are_counted_not_drawn() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": None}]
    text = loss_curve([*rows, {"step": 4, "eval_loss": float("inf")}])
    assert "Not drawn: 2 training losses that are no finite number, the first at step 2." in text
    assert "Not drawn: 1 held-out losses that are no finite number, the first at step 4." in text
    assert sum(line.count("·") for line in _plot(text)) == 1


def test_no_loss_at_all_is_said() -> None:
    assert loss_curve([]) == "No loss was recorded."
    assert loss_curve([{"step": 1, "loss": float("nan")}]).startswith("No loss was recorded.\nNot")


def test_one_step_and_a_flat_loss_are_drawn() -> None:
    assert sum(line.count("·") for line in _plot(loss_curve([{"step": 5, "loss": 1.0}]))) == 1
    flat = _plot(loss_curve([{"step": n, "loss": 1.0} for n in range(1000)]))
    assert sum(line.count("·") for line in flat) == WIDTH
