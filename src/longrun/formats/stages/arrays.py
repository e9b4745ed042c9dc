"""Numpy arrays in files: written so that no end of one can be missing."""

from typing import IO, Any

import numpy as np
import numpy.typing as npt


def write_array(file: IO[bytes], values: npt.NDArray[Any]) -> None:
    """Write an array into an open file as ``np.save`` does, byte for byte.

    ``np.save`` itself writes through a C stream of its own, and when that is closed errors are
    dropped: on a full disk the end of a small array is lost without a word.

    Raises:
        OSError: there is no room for it.
    """
    whole = np.ascontiguousarray(values)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
    file.write(whole.reshape(-1).view(np.uint8).data)
