import torch

from longrun.config.training import OptimizerSettings
from longrun.optim.optimizers import Optimizers


def test_compact_states_are_bitwise_alike_however_the_matrix_is_cut(run_ranks, tmp_path):
    """Rows that two processes cannot share evenly; saved cut by columns, loaded cut by rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 256, generator=generator)
    gradients = [torch.randn(7, 256, generator=generator) for _ in range(4)]
    found = run_ranks("compact_states.py", 2, weight, gradients, tmp_path)
    parameter = torch.nn.Parameter(weight.clone())
    optimizers = Optimizers([("w", parameter)], OptimizerSettings(states="int8", weight_decay=0.1))
    for gradient in gradients:
        parameter.grad = gradient
        optimizers.step(0.01)
    expected = {"w": parameter.detach()} | optimizers.state()
    for rank in found:
        assert len(rank) == 2 * len(expected)
        for name, value in expected.items():
            assert torch.equal(rank[f"0 {name}"], value), name
            assert torch.equal(rank[f"1 {name}"], value), name
