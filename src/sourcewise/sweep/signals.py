"""Signals that a sweep takes note of, in place of ending by them."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def caught(wake: Callable[[], None], *numbers: signal.Signals) -> Iterator[list[int]]:
    """Collect signals in a list and call `wake` for each; those that are ignored, as under nohup, remain ignored."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        wake()

    before = {n: signal.signal(n, note) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
