"""How the ranks of a run share the work: the axes, which combinations are legal, and why not.

Ranks are numbered with the tensor axis innermost, then context, then data, so that the ranks that
talk most are neighbours inside a machine. With 8 ranks, ``tensor`` 2 and ``context`` 2::

    rank      0 1   2 3   4 5   6 7
    tensor    0 1   0 1   0 1   0 1      every matrix is cut in 2
    context   0 0   1 1   0 0   1 1      the tokens of a pack are cut in 2
    data      0 0   0 0   1 1   1 1      2 different packs at a time

Weights, gradients and optimizer states are shared over data x context ranks: ``sharding`` and
``shard_size`` say how. This module never imports torch: a layout is checked before anything starts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from longrun.config.training import EngineConfig
from longrun.errors import ConfigError
from longrun.nn.architecture import Arch

Sharding = Literal["replicate", "states", "full"]
"""What the data x context ranks of one shard group hold.

``replicate``  every rank holds everything
``states``     weights and optimizer states are sharded at rest; within a step the gathered weights
               and whole gradients stay (one gather and one reduction per step)
``full``       weights, gradients and states are sharded and gathered layer by layer
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The sizes of the axes; ``num_ranks = data * context * tensor``."""

    num_ranks: int = 1
    tensor: int = 1
    """Ranks that share every matrix: tensor parallelism, with the activations between layers split
    along the tokens."""
    context: int = 1
    """Ranks that share the tokens of a pack: context parallelism, exact for any documents."""
    sharding: Sharding = "replicate"
    shard_size: int | None = None
    """Data x context ranks that share one copy of the weights; None: all of them. A smaller size
    repeats the copy (HSDP): gathers stay inside a group, gradients are also summed between them."""

    @classmethod
    def of(cls, config: EngineConfig) -> "Layout":
        """Take the layout that the settings ask for."""
        return cls(
            num_ranks=config.num_nodes * config.num_processes,
            tensor=config.tensor_parallel,
            context=config.context_parallel,
            sharding=config.sharding,
            shard_size=config.shard_size,
        )

    @property
    def data(self) -> int:
        """Ranks along the data axis: packs that are computed at the same time."""
        return self.num_ranks // (self.tensor * self.context)

    @property
    def shards(self) -> int:
        """Data x context ranks that share one copy of the weights; 1 when each has its own."""
        if self.sharding == "replicate":
            return 1
        return self.data * self.context if self.shard_size is None else self.shard_size

    @property
    def replicas(self) -> int:
        """Copies of the weights."""
        return self.data * self.context // self.shards

    def __str__(self) -> str:
        """Name the layout in one line, as in logs and tables."""
        parts = [f"data {self.data}", f"context {self.context}", f"tensor {self.tensor}"]
        kind = self.sharding if self.shards == 1 else f"{self.sharding} over {self.shards}"
        return " x ".join(parts) + f", {kind}"


def obstacle(layout: Layout, arch: Arch) -> str | None:
    """Return why ``layout`` cannot train a model of ``arch``; None: it can."""
    product = layout.tensor * layout.context
    if layout.num_ranks % product:
        return (
            f"tensor {layout.tensor} x context {layout.context} do not divide"
            f" {layout.num_ranks} ranks"
        )
    for what, size in (("key-value heads", arch.num_kv_heads), ("query heads", arch.num_heads)):
        if size % layout.tensor:
            return f"tensor {layout.tensor} does not divide the {size} {what}"
    for what, size in (
        ("intermediate_size", arch.intermediate_size),
        ("vocab_size", arch.vocab_size),
    ):
        if size % layout.tensor:
            return f"tensor {layout.tensor} does not divide {what} {size}"
    if layout.shard_size is None:
        return None
    if layout.sharding == "replicate":
        return "shard_size has no effect with sharding replicate"
    sharers = layout.data * layout.context
    if sharers % layout.shard_size:
        return f"shard_size {layout.shard_size} does not divide {sharers} data x context ranks"
    return None


def check_layout(layout: Layout, arch: Arch, where: str) -> None:
    """Refuse an illegal layout.

    Raises:
        ConfigError: with the reason and the nearest legal layout; ``where`` leads the message.
    """
    problem = obstacle(layout, arch)
    if problem is not None:
        raise ConfigError(
            f"{where}: {problem}; the nearest legal layout is {nearest(layout, arch)}"
        )


def nearest(layout: Layout, arch: Arch) -> Layout:
    """Return the legal layout on as many ranks with the most similar sizes."""

    def distance(other: Layout) -> tuple[float, ...]:
        ratios = [(other.tensor, layout.tensor), (other.context, layout.context)]
        far = sum(max(a, b) / min(a, b) for a, b in ratios)
        return far, other.shard_size != layout.shard_size, other.tensor

    return min(_legal(layout, arch), key=distance)


def _legal(layout: Layout, arch: Arch) -> Iterator[Layout]:
    sizes = [size for size in range(1, layout.num_ranks + 1) if layout.num_ranks % size == 0]
    shard_sizes = {None} if layout.sharding == "replicate" else {layout.shard_size, None}
    for tensor in sizes:
        for context in sizes:
            for shard_size in shard_sizes:
                other = replace(layout, tensor=tensor, context=context, shard_size=shard_size)
                if obstacle(other, arch) is None:
                    yield other
