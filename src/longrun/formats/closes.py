"""What holds something open, for ``with``: written once."""

from abc import ABC, abstractmethod
from typing import Self


class Closes(ABC):
    """An object that ``with`` closes, however the block ends."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of everything that is held; a second time does nothing."""
