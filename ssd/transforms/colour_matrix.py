"""Photometric distortion as one affine matrix an image, for `ssd_ops.render_images`.

Brightness, contrast and saturation are affine in RGB, and so is an order of the channels; hue is turned in the plane of
YIQ's two colour differences, as in the colour twist of NVIDIA DALI. So any chain of them is one 3 x 4 matrix.
"""

import math
from collections.abc import Sequence

import numpy as np

from ssd.transforms.photometric import GRAY, Distortion

# NTSC's colour space: luma, and two colour differences that are 0 for gray.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def colour_matrix(distortion: Distortion, mean: Sequence[float]) -> np.ndarray:
    """Returns the matrix of a distortion: the same steps, factors and order as those of `photometric.distort`.

    Three things differ from it. Values are cut to 0 .. 255 once, after the last step, instead of after each. They are not
    rounded to bytes. And a shift of hue keeps the luma and the strength of a colour, where HSV keeps its largest and
    smallest channel; its angle counts in YIQ, where a sixth of HSV's circle is 43 to 74 degrees. Where no step leaves 0 ..
    255 and hue stays, the result is the same up to rounding.

    Args:
        distortion: what was drawn.
        mean: red, green and blue, 0 .. 255: the mean colour of the image. Contrast turns about the gray that the steps
            before it make of this, which is the mean gray that they make of the image as long as they cut nothing.

    Returns:
        float32 ``[3, 4]``: channel c becomes ``matrix[c, :3] @ rgb + matrix[c, 3]``.
    """
    matrix, gray = np.eye(4), np.array(GRAY)
    for name, value in distortion.steps:
        step = np.eye(4)
        if name == "brightness":
            step[:3, :3] *= value
        elif name == "contrast":
            step[:3, :3] *= value
            step[:3, 3] = (1.0 - value) * (gray @ matrix[:3] @ [*mean, 1.0])
        elif name == "saturation":
            step[:3, :3] = value * np.eye(3) + (1.0 - value) * gray
        else:
            step[:3, :3] = hue_rotation(value)
        matrix = step @ matrix
    rows = matrix[:3] if distortion.channels is None else matrix[distortion.channels]
    return rows.astype(np.float32)


def hue_rotation(turns: float) -> np.ndarray:
    """Returns the matrix ``[3, 3]`` that turns hue by a share of the colour circle, red to green to blue, in YIQ."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cosine, sine], [0.0, -sine, cosine]])  # YIQ counts red to blue to green
    return _FROM_YIQ @ turn @ _TO_YIQ
