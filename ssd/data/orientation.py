"""EXIF orientation of a whole data set: do its boxes belong to the turned pictures or to the stored ones?"""

import numpy as np

from ssd.data.faults import DataError
from ssd.data.loading.images import read_header

_LOOKED_AT = 200  # headers read when a data set is opened


def check_apply_exif(value: object) -> None:
    """Raises `DataError` where the option `apply_exif` is none of True, False and "auto"."""
    if value is not True and value is not False and value != "auto":
        raise DataError(f"apply_exif must be True, False or 'auto', got {value!r}")


def find_orientation(apply_exif: bool | str, files: np.ndarray, sizes: np.ndarray) -> tuple[bool, str]:
    """Finds out whether images whose annotated size leaves it open (square, or turned by 180 degrees) are to be turned.

    Args:
        apply_exif: True and False are answers; `"auto"` looks at the headers of some images.
        files: Paths `[N]`.
        sizes: Annotated heights and widths `[N, 2]`.

    Returns:
        The answer, and a remark for the summary; "" where no image looked at has an orientation. An image turned by 90
        degrees whose annotated size is the stored one speaks against turning, one whose size is the turned one for it;
        without either, images are turned, as annotation tools show them.
    """
    if apply_exif != "auto":
        return bool(apply_exif), ""
    rows = np.linspace(0, len(files) - 1, min(len(files), _LOOKED_AT)).astype(int)
    oriented = turned = stored = 0
    for row in rows:
        try:
            header = read_header(str(files[row]))
        except DataError:
            continue  # named when it is loaded
        size = tuple(int(v) for v in sizes[row])
        oriented += header.orientation not in (0, 1)
        turned += header.size(True) == size != header.size(False)
        stored += header.size(False) == size != header.size(True)
    upright = turned >= stored
    if not oriented:
        return upright, ""
    remark = (
        f"{oriented} of {len(rows)} images looked at have an EXIF orientation; they are "
        + ("turned upright" if upright else "read as stored")
        + (", or the other way where their annotated size asks for it" if turned and stored else "")
        + " (apply_exif=True or False decides otherwise)"
    )
    return upright, remark
