"""Loss and gradients of Hugging Face folders under tensor 2 x context 2, read part by part."""

from pathlib import Path
from typing import Any

import torch

from longrun.checkpoint.huggingface import load_weights
from longrun.checkpoint.model_folder import read_config
from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.context import lay_out
from longrun.parallel.data import distribute, gather_parameter
from longrun.parallel.layouts import Layout
from longrun.parallel.mesh import Mesh, sum_over_shares


def one_step(mesh: Mesh, folder: Path, documents: list[WeightedDocument]) -> dict[str, Any]:
    """Return loss and whole gradients of one pack."""
    with torch.device("meta"):
        arch = Arch.from_hf(read_config(folder), str(folder))
        model = Decoder(arch, backend="sdpa", compute_dtype=torch.float64).double()
    layout = Layout(num_ranks=mesh.size, tensor=2, context=2, sharding="full")
    distributed = distribute(model, mesh, layout)
    load_weights(folder, model)
    pack = lay_out(documents, mesh)
    total = sum_over_shares([pack.weight_sum()], mesh)[0]
    distributed.begin_step()
    distributed.begin_micro_step(True)
    loss = model.loss(pack)
    (loss / total).backward()
    distributed.end_backward(True)
    return {
        "loss": sum_over_shares([loss.item()], mesh)[0] / total,
        "gradients": {n: gather_parameter(p.grad).clone() for n, p in model.named_parameters()},
    }


def run(
    process: Mesh, folders: list[Path], documents: list[WeightedDocument]
) -> list[dict[str, Any]]:
    """Take one step with every model."""
    mesh = Mesh(process.rank, process.size, process.device, process.backend, 2, 2)
    return [one_step(mesh, folder, documents) for folder in folders]
