"""An engine that gives a test's answers in turn."""

import numpy as np

from guard_core.engine.tensors import Generated, Generation


class Engine:
    """Gives its answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: Generated) -> None:
        self.answers = [*answers]
        self.asked: list[Generation] = []

    async def generate(self, wanted: Generation) -> Generated:
        self.asked.append(wanted)
        return self.answers.pop(0)


def answered(ids: list[int], reused_blocks: int = 0, logits: np.ndarray | None = None) -> Generated:
    return Generated(ids, logits, reused_blocks)
