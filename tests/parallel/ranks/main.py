"""One rank: join the mesh, call ``run`` of the script, write down what it returns.

``python main.py SCRIPT FOLDER``
"""

import runpy
import sys
from pathlib import Path

import torch

from longrun.parallel.mesh import start_mesh, stop_mesh

script, folder = sys.argv[1], Path(sys.argv[2])
arguments = torch.load(folder / "arguments", weights_only=False)
mesh = start_mesh()
try:
    result = runpy.run_path(script)["run"](mesh, *arguments)
finally:
    stop_mesh()
torch.save(result, folder / str(mesh.rank))
