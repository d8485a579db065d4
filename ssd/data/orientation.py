"""EXIF orientation of a data set: whether its boxes refer to the rotated images or to the stored ones."""

import numpy as np

from ssd.data.faults import DataError
from ssd.data.loading.images import read_header

_NUM_HEADERS = 200  # headers read when a data set is opened


def check_apply_exif(value: object) -> None:
    """Raises `DataError` if the option `apply_exif` is not True, False or "auto"."""
    if value is not True and value is not False and value != "auto":
        raise DataError(f"apply_exif must be True, False or 'auto', got {value!r}")


def find_orientation(apply_exif: bool | str, files: np.ndarray, sizes: np.ndarray) -> tuple[bool, str]:
    """Decides whether to apply EXIF orientation to images whose annotated size does not decide it (square, or by 180).

    Args:
        apply_exif: True or False is returned unchanged; `"auto"` reads the headers of some images.
        files: Paths `[N]`.
        sizes: Annotated heights and widths `[N, 2]`.

    Returns:
        The decision, and a note for the summary, "" if no header has an orientation. It is the majority of the images
        rotated by 90 degrees: their annotated size is either the stored or the rotated one. Without such images,
        orientation is applied, as annotation tools do.
    """
    if apply_exif != "auto":
        return bool(apply_exif), ""
    rows = np.linspace(0, len(files) - 1, min(len(files), _NUM_HEADERS)).astype(int)
    oriented = rotated = stored = 0
    for row in rows:
        try:
            header = read_header(str(files[row]))
        except DataError:
            continue  # reported when the image is loaded
        size = tuple(int(v) for v in sizes[row])
        oriented += header.orientation not in (0, 1)
        rotated += header.size(True) == size != header.size(False)
        stored += header.size(False) == size != header.size(True)
    upright = rotated >= stored
    if not oriented:
        return upright, ""
    remark = (
        f"{oriented} of {len(rows)} sampled images have an EXIF orientation; they are "
        + ("rotated upright" if upright else "read as stored")
        + (", or the other way if their annotated size requires it" if rotated and stored else "")
        + " (override with apply_exif=True or False)"
    )
    return upright, remark
