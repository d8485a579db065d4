"""RGB images as tensors and as images of PIL."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pil(image: Tensor) -> Image.Image:
    """Returns a uint8 RGB image `[3, H, W]` on any device as a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def from_pil(image: Image.Image) -> Tensor:
    """Returns an RGB image of PIL as uint8 `[3, H, W]`, a view of channels-last memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
