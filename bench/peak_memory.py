"""Live bytes of tensors on one rank, and their peak: of real, meta and fake tensors alike.

A dispatch mode that sees every operation's results. It counts storages, rounded up to 512 bytes as
the CUDA allocator does, FSDP2's resizing of storages included. It does not see the workspace of
kernels, fragmentation, the runtime's own context or communication buffers.
"""

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_GRANULE = 512


class PeakMemory(TorchDispatchMode):
    """Counts while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self.bytes = 0
        self.peak_bytes = 0

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that exist already."""
        for tensor in tensors:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            self._count(local.untyped_storage())

    def take_peak(self) -> int:
        """Return the peak since the last call."""
        peak, self.peak_bytes = self.peak_bytes, self.bytes
        return peak

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._live:
            self._live[key] = 0
            weakref.finalize(storage, self._forget, key)
        size = -(-storage.nbytes() // _GRANULE) * _GRANULE
        self.bytes += size - self._live[key]
        self._live[key] = size
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _forget(self, key: int) -> None:
        self.bytes -= self._live.pop(key, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._live:
                    self._count(storage)
        return result

    def __enter__(self) -> Self:
        resize = torch.UntypedStorage.resize_

        def counted(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if storage._cdata in self._live:
                self._count(storage)
            return result

        self._resize = resize
        torch.UntypedStorage.resize_ = counted
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        torch.UntypedStorage.resize_ = self._resize
        super().__exit__(kind, error, trace)
