"""The keys and values of the rows that write: each row has a room of its own, nothing is padded.

A row begins at position 0 of its room. Rooms come in sizes (64, 96, 128, 192, 256, ... tokens), and
all rooms of one size lie in one table, side by side, so that a step attends to each table at once.
A row that outgrows its room moves to the next size: a copy every few dozen tokens. The size of
the room depends on the row's own length alone, and so does everything that is computed in it.

Shapes: L layers, N rows of a table, K key-value heads, G query heads per key-value head, C tokens
of a room, n tokens of a row, D channels of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from longrun.nn.architecture import Arch

SMALLEST_ROOM = 64


def room_for(num_tokens: int) -> int:
    """Return the smallest size of room for ``num_tokens``: 64 times a power of two, or 1.5 times.

    >>> [room_for(length) for length in (1, 64, 65, 97, 129)]
    [64, 64, 96, 128, 192]
    """
    size = SMALLEST_ROOM
    while size < num_tokens:
        if size * 3 // 2 >= num_tokens:
            return size * 3 // 2
        size *= 2
    return size


class Table:
    """Rooms of one size, the used ones first."""

    def __init__(self, room: int, arch: Arch, device: torch.device, dtype: torch.dtype) -> None:
        """Make an empty table; rooms are added when rows come."""
        self.room = room
        shape = (arch.num_layers, 2, 0, arch.num_kv_heads, room, arch.head_dim)
        self._store = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths: list[int] = []
        """Tokens of every row: the used part of its room."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def add(self, kept: Tensor) -> None:
        """Give a row the next room and fill it with ``kept``, [L, 2, K, n, D]."""
        place, length = len(self), kept.shape[-2]
        if place == self._store.shape[2]:
            # Zeros, because what is masked must still be finite.
            shape = (*self._store.shape[:2], max(4, place), *self._store.shape[3:])
            self._store = torch.cat([self._store, self._store.new_zeros(shape)], 2)
        self._store[:, :, place, :, :length] = kept
        self.lengths.append(length)

    def copy(self, place: int) -> Tensor:
        """Return the keys and values of one row, [L, 2, K, n, D], as a copy."""
        return self._store[:, :, place, :, : self.lengths[place]].clone()

    def remove(self, place: int) -> None:
        """Free a room; the last row moves into it."""
        last = len(self) - 1
        if place < last:
            self._store[:, :, place] = self._store[:, :, last]
            self.lengths[place] = self.lengths[last]
        self.lengths.pop()

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of one layer, both [N, K, C, D]: views, written in place."""
        keys, values = self._store[index, :, : len(self)]
        return keys, values


@dataclass(frozen=True, slots=True)
class Writing:
    """The rows of one table, each with one new token."""

    table: Table
    start: int
    """Index of the first row's token among those of the step."""
    places: Tensor
    """[N] 0, 1, 2, ..."""
    lengths: Tensor
    """[N] tokens before the new one."""
    mask: Tensor
    """[N, 1, 1, C]: 0 for what a row sees, minus infinity for the rest of its room."""

    @classmethod
    def of(cls, table: Table, start: int, like: Tensor) -> "Writing":
        """Prepare a step; ``like`` gives device and dtype of the mask."""
        lengths = torch.tensor(table.lengths, device=like.device)
        unseen = torch.arange(table.room, device=like.device) > lengths[:, None]
        mask = torch.zeros(unseen.shape, device=like.device, dtype=like.dtype)
        mask.masked_fill_(unseen, float("-inf"))
        places = torch.arange(len(table), device=like.device)
        return cls(table, start, places, lengths, mask[:, None, None])

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, o: Tensor) -> None:
        """Keep the new keys and values and write the attended values into ``o`` [T, H, D]."""
        keys, values = self.table.layer(layer)
        mine = slice(self.start, self.start + len(self.places))
        keys[self.places, :, self.lengths] = k_TKD[mine]
        values[self.places, :, self.lengths] = v_TKD[mine]
        # The query heads that share a key-value head stand where queries of one row would: no key
        # is copied, and each still sees all of the row.
        q_NKGD = q_THD[mine].view(len(self.places), k_TKD.shape[1], -1, q_THD.shape[-1])
        attended = scaled_dot_product_attention(q_NKGD, keys, values, attn_mask=self.mask)
        o[mine] = attended.flatten(1, 2)


@dataclass(frozen=True, slots=True)
class Reading:
    """One row whose next tokens are read together: a prompt, or what the environment appended."""

    start: int
    kept: Tensor
    """Keys and values of all its tokens, [L, 2, K, n, D]; the new ones are filled in."""
    num_new: int

    @classmethod
    def of(
        cls, start: int, num_new: int, past: Tensor | None, arch: Arch, like: Tensor
    ) -> "Reading":
        """Prepare a row with ``past`` keys and values [L, 2, K, n, D] and ``num_new`` tokens."""
        before = 0 if past is None else past.shape[-2]
        shape = (arch.num_layers, 2, arch.num_kv_heads, before + num_new, arch.head_dim)
        kept = torch.empty(shape, device=like.device, dtype=like.dtype)
        if past is not None:
            kept[..., :before, :] = past
        return cls(start, kept, num_new)

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, o: Tensor) -> None:
        """Keep the new keys and values and write the attended values into ``o`` [T, H, D]."""
        mine = slice(self.start, self.start + self.num_new)
        keys, values = self.kept[layer]
        before = keys.shape[1] - self.num_new
        keys[:, before:], values[:, before:] = (
            k_TKD[mine].transpose(0, 1),
            v_TKD[mine].transpose(0, 1),
        )
        mask = None
        if before:
            seen = torch.ones(self.num_new, keys.shape[1], device=o.device, dtype=torch.bool)
            mask = torch.zeros(seen.shape, device=o.device, dtype=o.dtype)
            mask.masked_fill_(~seen.tril(before), float("-inf"))
        attended_HQD = scaled_dot_product_attention(
            q_THD[None, mine].transpose(1, 2),
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=True,
        )[0]
        o[mine] = attended_HQD.transpose(0, 1)


class CachedCore(nn.Module):
    """The attention core of a layer that writes: every row sees its own past and nothing else."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self._layer = layer

    def forward(
        self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, parts: Sequence[Writing | Reading]
    ) -> Tensor:
        """Return the attended values [T, H, D]; 0 for tokens that belong to no part."""
        attended_THD = torch.zeros_like(q_THD)
        for part in parts:
            part.attend(self._layer, q_THD, k_TKD, v_TKD, attended_THD)
        return attended_THD
