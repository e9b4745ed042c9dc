"""The stage that proves the laws of packing at length on a user's model, packs, type and layout.

``verification.json`` holds every figure with its bound, and the log shows them. A law that does
not hold ends the stage and nothing is written. The workers' side is in ``check_laws``.
"""

import json

from longrun.config.training import VerifyConfig
from longrun.formats.stages.manifest import CONFIG_NAME, Manifest
from longrun.formats.stages.stage import open_stage
from longrun.training.nodes import Peers, join_nodes, raise_outcome
from longrun.training.processes import run_workers
from longrun.training.train import check_engine, follow

RESULT_NAME = "verification.json"


def run(config: VerifyConfig) -> Manifest:
    """Check the laws; see ``longrun.training.laws``.

    Raises:
        VerificationError: a law does not hold, with the figure and its bound.
        ConfigError: two settings do not fit each other, the packs or the machine.
        InputError: the packs or the model cannot be used, or do not belong together.
        LaunchError: a worker died, or another node is lost.
    """
    with join_nodes(config) as peers:
        return _lead(config, peers) if peers.leads else follow("verify", config, peers)


def _lead(config: VerifyConfig, peers: Peers) -> Manifest:
    with open_stage("verify", config) as stage:
        if stage.finished is not None:
            return stage.finished
        check_engine("verify", config)
        path = stage.folder / CONFIG_NAME
        raise_outcome(run_workers("verify", path, config.num_processes, peers))
        findings = json.loads((stage.folder / RESULT_NAME).read_text())["findings"]
        return stage.finish(counts={"figures": len(findings), "documents": config.num_documents})
