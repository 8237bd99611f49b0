"""An array that grows on the disk, so that an index of any size is built in the same memory."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from meap_megatron.atomic import disk_errors


class DiskArray:
    """One-dimensional and in a file without a name, which the system frees with the last use of the array."""

    def __init__(self, folder: Path | None, dtype: DTypeLike) -> None:
        """Make an empty one.

        Args:
            folder: where the file is; None for the system's folder of temporary files.
            dtype: of the elements.

        Raises:
            RunError: the folder cannot be written.
        """
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.size = 0
        with disk_errors(folder or Path(tempfile.gettempdir())):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as this object

    def append(self, values: NDArray) -> None:
        """Add values at the end.

        Raises:
            RunError: the disk is full.
        """
        with disk_errors(self.folder or Path(tempfile.gettempdir())):
            values.astype(self.dtype, copy=False).tofile(self._file)
        self.size += len(values)

    def array(self) -> NDArray:
        """Return what was added, dtype[size], mapped: writing to it writes to the file. Nothing is added afterwards."""
        if self.size == 0:
            return np.zeros(0, self.dtype)  # NumPy cannot map an empty file
        # A plain view, because RandomState shuffles those in place and objects of other classes element by element.
        return np.asarray(np.memmap(self._file, self.dtype, mode="r+", shape=(self.size,)))
