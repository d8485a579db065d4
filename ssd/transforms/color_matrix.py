"""Photometric distortion as what `ssd_ops.render_images` takes: one affine matrix and one shift of hue an image.

Brightness, contrast, saturation and an order of the channels are affine in RGB. A shift of hue is not, but it may wait
until the end: contrast treats all channels alike, so that it may come before as well as after, and an order of the
channels turns the circle, or turns it over.
"""

import numpy as np
import torch
from torch import Tensor

from ssd.transforms.photometric import GRAY, Distortion, mean_gray, pivot_grid, run_steps

_ROTATIONS = ([0, 1, 2], [1, 2, 0], [2, 0, 1])  # orders of the channels that turn the circle; the others turn it over


def color_matrix(distortion: Distortion, image: Tensor) -> tuple[np.ndarray, float]:
    """Returns a distortion as a matrix, after which hue is shifted: the steps, factors and order of
    `ssd.transforms.photometric.distort`.

    What differs from it: values are cut to 0 .. 255 once, between the matrix and the hue, instead of after each step, and
    are not rounded to bytes. Where no step but the last leaves 0 .. 255, the result is the same up to rounding.

    Args:
        distortion: what was drawn; a shift of hue comes after saturation, as in `draw_distortion`.
        image: uint8 ``[3, H, W]``, the whole image. Contrast turns about the mean gray that the steps before it make of
            this.

    Returns:
        float32 ``[3, 4]``: channel c becomes ``matrix[c, :3] @ rgb + matrix[c, 3]``; and the shift of hue in turns.
    """
    matrix, turns = np.eye(4), 0.0
    for i, (name, value) in enumerate(distortion.steps):
        step = np.eye(4)
        if name == "hue":
            turns = value
        elif name == "saturation":
            step[:3, :3] = value * np.eye(3) + (1.0 - value) * np.array(GRAY)
        else:
            step[:3, :3] *= value
        if name == "contrast":
            grid = pivot_grid(image).to(torch.float32)
            step[:3, 3] = (1.0 - value) * mean_gray(run_steps(grid, distortion.steps[:i]))
        matrix = step @ matrix
    if distortion.channels is None:
        return matrix[:3].astype(np.float32), turns
    return matrix[distortion.channels].astype(np.float32), turns if distortion.channels in _ROTATIONS else -turns
