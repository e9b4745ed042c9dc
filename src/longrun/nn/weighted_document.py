"""A document as training takes it, without torch: checks before the workers start read it too."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class WeightedDocument(NamedTuple):
    """One document as training takes it."""

    ids: npt.NDArray[np.int32]
    """Token ids, [n]."""
    weights: npt.NDArray[np.float32]
    """With what weight each token is supervised as a target, [n]."""
