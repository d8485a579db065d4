"""Photometric distortion in the form that `ssd_ops.render_images` takes: an affine matrix and a hue shift per image.

Brightness, contrast, saturation and a permutation of the channels are affine in RGB. A hue shift is not, but it can be
moved to the end: it commutes with contrast, which treats all channels alike, and a permutation of the channels rotates
or mirrors the color circle.
"""

import numpy as np
import torch
from torch import Tensor

from ssd.transforms.photometric import GRAY, Distortion, mean_gray, run_steps

_ROTATIONS = ([0, 1, 2], [1, 2, 0], [2, 0, 1])  # permutations that rotate the color circle; the others mirror it


def needs_grid(distortion: Distortion) -> bool:
    """Returns whether a distortion depends on the image: contrast scales around its mean gray."""
    return any(name == "contrast" for name, _ in distortion.steps)


def color_matrix(distortion: Distortion, grid: Tensor | None) -> tuple[np.ndarray, float]:
    """Returns a distortion as an affine matrix followed by a hue shift.

    The steps, factors and their order are those of `ssd.transforms.photometric.distort`. Unlike there, values are clipped
    to 0 .. 255 once, between the matrix and the hue shift, instead of after each step, and are not rounded to bytes. If
    only the last step leaves 0 .. 255, the results are equal up to rounding.

    Args:
        distortion: The drawn distortion; a hue shift comes after saturation, as in `draw_distortion`.
        grid: uint8 `[3, N]`, the `pivot_grid` of the whole image. Contrast scales around its mean gray after the
            preceding steps. None if the distortion does not need it, see `needs_grid`.

    Returns:
        float32 `[3, 4]`: channel c becomes `matrix[c, :3] @ rgb + matrix[c, 3]`; and the hue shift in turns.
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
            assert grid is not None
            step[:3, 3] = (1.0 - value) * mean_gray(run_steps(grid.to(torch.float32), distortion.steps[:i]))
        matrix = step @ matrix
    if distortion.channels is None:
        return matrix[:3].astype(np.float32), turns
    return matrix[distortion.channels].astype(np.float32), turns if distortion.channels in _ROTATIONS else -turns
