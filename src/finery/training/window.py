"""The steps since the last log line, and the line they make."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from finery.training import distribution
from finery.training.checkpoint import Progress
from finery.training.events import finite
from finery.training.steps import StepPlan
from finery.training.trainee import Trainee


class Window:
    """What has happened since the last log line."""

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.steps = 0
        self.tokens = 0
        self.seconds = 0.0

    @classmethod
    def of(cls, trainee: Trainee, progress: Progress) -> Window:
        """The window that the run stood in when `progress` was saved."""
        window = cls()
        if progress.window_steps:
            share = progress.window_loss if trainee.is_main else 0.0
            window.loss = torch.tensor(share, device=trainee.accelerator.device)
            window.steps, window.tokens = progress.window_steps, progress.window_tokens
            window.seconds = progress.window_seconds
        return window

    def kept_in(self, trainee: Trainee, progress: Progress) -> Progress:
        """`progress` with this window, to be saved; all processes call it together."""
        loss = 0.0
        if self.loss is not None:
            loss = float(distribution.total(trainee.accelerator, self.loss))
        return replace(
            progress,
            window_loss=loss,
            window_steps=self.steps,
            window_tokens=self.tokens,
            window_seconds=self.seconds,
        )

    def add(self, loss: Tensor, tokens: int, seconds: float) -> None:
        """Count one step; its loss stays on the device until the line is due."""
        self.loss = loss if self.loss is None else self.loss + loss
        self.steps, self.tokens = self.steps + 1, self.tokens + tokens
        self.seconds += seconds

    def event(
        self, trainee: Trainee, progress: Progress, plan: StepPlan, rate: float, norm: float
    ) -> dict[str, Any]:
        """The log line of this window; all processes call it together."""
        summed = torch.zeros(()) if self.loss is None else self.loss
        loss = float(distribution.total(trainee.accelerator, summed)) / self.steps
        return {
            "event": "log",
            "step": progress.step,
            "epoch": round(progress.step / plan.steps_per_epoch, 4),
            "loss": finite(loss, "loss", progress.step),
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens_per_s": self.tokens / self.seconds,
            "seconds_left": (plan.total_steps - progress.step) * self.seconds / self.steps,
        }
