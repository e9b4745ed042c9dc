import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.evaluation.generation.key_values import SMALLEST_ROOM, Table, room_for
from longrun.nn.architecture import Arch

ARCH = Arch(
    family="qwen2",
    vocab_size=8,
    hidden_size=4,
    intermediate_size=4,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=2,
    norm_eps=1e-6,
    rope_theta=1e4,
    rope_scaling=None,
    qkv_bias=True,
    qk_norm=False,
    tied=True,
    max_positions=128,
)


def kept(value, length):
    return torch.full((2, 2, 1, length, 2), float(value))


@given(st.integers(1, 1 << 20))
def test_a_room_fits_and_wastes_less_than_half(length):
    room = room_for(length)
    assert room >= length
    assert room == SMALLEST_ROOM or room < 1.51 * length


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 60)), max_size=40))
@settings(max_examples=30)
def test_a_table_keeps_what_each_row_was_given(actions):
    table, rows = Table(64, ARCH, torch.device("cpu"), torch.float32), []
    for number, (adds, drawn, length) in enumerate(actions):
        if adds or not rows:
            table.add(kept(number, length))
            rows.append((number, length))
        else:
            place = drawn % len(rows)
            table.remove(place)
            rows[place] = rows[-1]
            rows.pop()
        assert table.lengths == [length for _, length in rows]
        for index, (value, size) in enumerate(rows):
            assert torch.equal(table.copy(index), kept(value, size))
