"""Data sets that `ssd data pack` writes: images in tar files in the layout of webdataset, annotations in NumPy arrays.

A folder has:

* `shards.json`: class names, the format that was packed, and for each split its tar files and how images are read; without
  tar files also `source`, the folder of the images.
* `SPLIT-000000.tar`, ...: for each image its file, unchanged, and a JSON file with the annotations, both with
  the same unique stem, as webdataset expects. Absent where `pack` was called without images.
* `SPLIT-arrays/*.npy`: the fields of `Annotations`, and where each image is in the tar files. Images in tar files have the
  names that they had relative to the packed data set, so that a division by their names is that of the original.

The arrays are mapped into memory: a data set of millions of images opens at once, and all processes of a machine share
the pages that they read. An image is read from its tar file by position, so that the order of training, its division among
processes and resuming are those of any other data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssd.common.errors import NoSplitError
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, FaultLog
from ssd.data.formats.shard_files import arrays_folder, check_values, open_arrays, read_index
from ssd.data.formats.split_names import aliases


class ShardsDataset(DetectionDataset):
    """A split of a data set in tar files.

    Args:
        root: Folder with `shards.json`.
        split: Its name.
        on_error: `"skip"` or `"raise"` for images that cannot be read.

    Raises:
        DataError: No such folder or split, or the files do not belong together.
    """

    def __init__(self, root: str | Path, split: str = "train", *, on_error: str = "skip") -> None:
        self.root = Path(root)
        index = read_index(self.root)
        splits = index["splits"]
        found = next((name for name in (split, *aliases(split)) if name in splits), None)
        if found is None:
            raise NoSplitError(f"{self.root} has no split {split!r}; splits found: {', '.join(splits)}", tuple(splits))
        about = splits[found]
        self._split = found
        self._shards: tuple[str, ...] = tuple(about["shards"])
        self._source: str = index.get("source") or str(root)
        self._whole, self._positions = open_arrays(self.root, found, bool(self._shards))
        folder = arrays_folder(self.root, found)
        check_values(self._whole, self._positions, folder, len(index["classes"]), len(self._shards))
        name = f"shards {found} of {self.root}"
        super().__init__(name, tuple(index["classes"]), self._whole, FaultLog(on_error))
        self.apply_exif, self.decides_by_size = about["apply_exif"], about["by_size"]

    @property
    def in_tar_files(self) -> bool:
        """Whether the images are in tar files, instead of in files of their own."""
        return self._positions is not None

    def encoded(self, index: int) -> np.ndarray:
        """Returns the content of image file `index`, uint8 `[N]`."""
        if self._positions is None:
            return super().encoded(index)
        shard, offset, size = (int(value) for value in self._positions[index])
        path = self.root / self._shards[shard]
        try:
            content = np.fromfile(path, dtype=np.uint8, count=size, offset=offset)
        except (OSError, MemoryError) as error:  # a damaged size may be huge
            raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if len(content) < size:
            raise DataError(f"{path} ends before byte {offset + size}; copy it again")
        return content

    def relative_names(self, root: str | Path) -> list[str]:
        """Returns the names of the images relative to the data set that was packed; `root` is not used."""
        if self._positions is None:
            return super().relative_names(self._source)
        return [str(file) for file in self.annotations.files]

    def subset(self, rows: Sequence[int], name: str) -> DetectionDataset:
        """Returns a data set of some of the images, see `DetectionDataset.subset`."""
        part = super().subset(rows, name)
        assert isinstance(part, ShardsDataset)
        part._positions = None if self._positions is None else self._positions[np.asarray(rows, dtype=np.int64)]
        return part

    def __getstate__(self) -> dict[str, Any]:
        # a worker that is not forked maps the arrays again, instead of receiving a copy
        state = dict(self.__dict__)
        if self.annotations is self._whole:
            state |= {"annotations": None, "_positions": None}
        return {**state, "_whole": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["annotations"] is None:
            self._whole, self._positions = open_arrays(self.root, self._split, bool(self._shards))
            self.annotations = self._whole
