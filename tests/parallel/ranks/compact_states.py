"""Steps with 8-bit moments on a matrix cut by columns, and on from its checkpoint cut by rows."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from longrun.checkpoint.saving import Retention, Saver
from longrun.checkpoint.sharded import LoopState, load_checkpoint
from longrun.config.training import OptimizerSettings
from longrun.optim.optimizers import Optimizers
from longrun.parallel.mesh import Mesh

SETTINGS = OptimizerSettings(states="int8", weight_decay=0.1)


def steps(named: list[tuple[str, nn.Parameter]], optimizers: Optimizers, gradients: Any) -> None:
    """Step once for every gradient, cut as the parameter."""
    for gradient in gradients:
        parameter = named[0][1]
        parameter.grad = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
        optimizers.step(0.01)


def run(mesh: Mesh, weight: Tensor, gradients: list[Tensor], folder: Path) -> dict[str, Any]:
    """Return the whole matrix and moments after all steps, by the dim that was cut."""
    axis = init_device_mesh("cpu", (mesh.size,))
    cuts = {}
    for dim in (1, 0):
        named = [("w", nn.Parameter(distribute_tensor(weight.clone(), axis, [Shard(dim)])))]
        optimizers = Optimizers(named, SETTINGS)
        optimizers.allocate()
        cuts[dim] = named, optimizers
    half = len(gradients) // 2
    steps(*cuts[1], gradients[:half])
    saver = Saver(folder, mesh, Retention(None, ()), background=True)
    tensors = {dim: {"w": n[0][1].detach()} | o.state() for dim, (n, o) in cuts.items()}
    path = saver.begin(LoopState(half, 0, 0), tensors[1])
    steps(*cuts[1], gradients[half:])
    saver.wait()
    saver.close()
    load_checkpoint(path, tensors[0], mesh)
    steps(*cuts[0], gradients[half:])
    return {
        f"{dim} {name}": (value.full_tensor() if isinstance(value, DTensor) else value).clone()
        for dim in (0, 1)
        for name, value in tensors[dim].items()
    }
