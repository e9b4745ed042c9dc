"""Make the next batches in a thread while a step runs.

What is made depends on the index of the step alone, so the order in which threads run changes
nothing. An error of the thread is raised when the step that needs its batch asks for it.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from longrun.formats.closes import Closes

Made = TypeVar("Made")


class Prefetch(Closes, Generic[Made]):
    """``make(first)``, ``make(first + 1)``, ... ``make(end - 1)``, up to ``depth`` ahead."""

    def __init__(self, make: Callable[[int], Made], first: int, end: int, depth: int) -> None:
        """Begin with ``first``; a ``depth`` of 0 makes everything when it is asked for."""
        self._make = make
        self._next = first
        self._end = end
        self._depth = depth
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: deque[Future[Made]] = deque()

    def take(self) -> Made:
        """Return what belongs to the next index; the first call returns that of ``first``."""
        self._fill(max(self._depth, 1))
        made = self._ahead.popleft().result()
        self._fill(self._depth)
        return made

    def _fill(self, depth: int) -> None:
        while len(self._ahead) < depth and self._next < self._end:
            self._ahead.append(self._thread.submit(self._make, self._next))
            self._next += 1

    def close(self) -> None:
        """Let go of what is held."""
        self._thread.shutdown(cancel_futures=True)
