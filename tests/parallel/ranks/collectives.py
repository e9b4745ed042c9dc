"""Every small collective once; rank r contributes r-dependent values."""

from typing import Any

from longrun.errors import VerificationError
from longrun.parallel.mesh import (
    Mesh,
    all_agree,
    any_rank,
    barrier,
    broadcast_object,
    sum_over_ranks,
)


def disagreement(text: str) -> str | None:
    """Return the message of the refusal, if there was one."""
    try:
        all_agree(text)
    except VerificationError as error:
        return str(error)
    return None


def run(mesh: Mesh) -> dict[str, Any]:
    """Return the results by name."""
    barrier()
    return {
        "mesh": (mesh.rank, mesh.size, str(mesh.device), mesh.backend),
        "sums": sum_over_ranks([0.1, float(mesh.rank), 2.0**53 + 2.0 * mesh.rank]),
        "any": (any_rank(mesh.rank == 1), any_rank(False)),
        "broadcast": broadcast_object({"rank": mesh.rank, "list": [1, "a"]}),
        "agree": disagreement("the same"),
        "differ": disagreement("x" * 200 + f" seed {mesh.rank // 2}"),
    }
