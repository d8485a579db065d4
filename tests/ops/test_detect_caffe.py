"""`detect` returns every detection of a released Caffe SSD, as OpenCV's DetectionOutput returned them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ssd_ops
from tests.ssd.real_data import real_data


@pytest.mark.parametrize("ops", (ssd_ops, ssd_ops.reference), ids=("ops", "reference"))
def test_detections_of_a_released_caffe_ssd(ops: Any) -> None:
    """A face detector on ResNet-10, 8892 priors, six images: threshold 0.01, NMS 0.45, top 400, 200 kept, no clipping."""
    with np.load(real_data("caffe_res10_ssd/outputs.npz")) as saved:
        arrays = {name: torch.from_numpy(saved[name].copy()) for name in saved}
    for image in range(6):
        scores, expected = arrays[f"probabilities_{image}"], arrays[f"detections_{image}"]
        logits, variances = scores.log()[None], arrays["variances"].tolist()
        found = ops.detect(arrays[f"loc_{image}"][None], logits, arrays["priors"], variances=variances, clip=False)
        count = int(found.counts)
        assert count == len(expected)
        assert torch.equal(found.labels[0, :count], expected[:, 0].long())
        torch.testing.assert_close(found.scores[0, :count], expected[:, 1], rtol=0, atol=1e-6)
        torch.testing.assert_close(found.boxes[0, :count], expected[:, 2:], rtol=0, atol=1e-6)
