"""How long and how fast a model is trained where nothing else is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from linescan.config import Method


@dataclass(frozen=True)
class Course:
    """Epochs, and the learning rate: constant, or falling to 0 over all steps like a half cosine."""

    epochs: int
    learning_rate: float
    schedule: Literal["constant", "cosine"]


PAPER = Course(200, 2e-4, "constant")  # §4.2 of the paper
SHORT = Course(20, 1e-3, "cosine")  # reaches in 20 epochs what the paper's rate does not in 40 (docs/results.md)


def course_for(preset: str, method: Method) -> Course:
    """The paper's for its preset, and for the methods of which no shorter one was measured."""
    return SHORT if preset == "default" and method == "ssim" else PAPER
