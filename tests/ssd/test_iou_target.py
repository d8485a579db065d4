"""Tests IoU-aware scores: soft cross entropy from scratch, its gradient, half precision, and a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

import ssd
from ssd import MultiBoxLoss, Preset, get_preset
from ssd.common.errors import ConfigError
from ssd.engine.loop import run
from ssd.engine.setup import make_model, open_datasets
from ssd.models.iou_target import iou_target_term
from ssd.reports.csv_log import CsvLog
from tests.ssd.test_loss import BOX, PRIORS, loss_with
from tests.ssd.test_training import SMALL

CELLS = ((2, 2), (1, 1))  # rows and columns of two levels with 3 priors for each cell


def inputs_of(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Returns loc, logits and priors of three images, and their objects: the second has none, one is ignored."""
    stream = torch.Generator().manual_seed(0)
    corner = torch.rand(15, 2, generator=stream) * 0.5
    priors = torch.cat((corner, corner + 0.2 + torch.rand(15, 2, generator=stream) * 0.3), dim=1)
    loc, logits = (torch.randn(3, 15, n, generator=stream, dtype=torch.float64).to(dtype) for n in (4, 5))
    objects = torch.cat((priors[[2, 7, 11, 4]] + 0.02, priors[[0]]))
    ignore = torch.tensor([False, False, True, False, False])
    return loc, logits, priors, (objects, torch.tensor([1, 4, 2, 3, 1]), torch.tensor([0, 3, 3, 5]), ignore)


def soft_cross_entropies(loc: Tensor, logits: Tensor, priors: Tensor, objects: tuple[Tensor, ...]) -> Tensor:
    """Returns the cross entropy of each prior [B, P] with its IoU as target, 0 where it is not positive."""
    labels, index, _ = MultiBoxLoss(Preset("own")).match(priors, *objects)
    center, size = (priors[:, 2:] + priors[:, :2]) / 2, priors[:, 2:] - priors[:, :2]
    losses = torch.zeros(labels.shape, dtype=torch.float64)
    for image, prior in (labels > 0).nonzero().tolist():
        middle = center[prior] + 0.1 * loc[image, prior, :2] * size[prior]
        half = size[prior] * torch.exp(0.2 * loc[image, prior, 2:]) / 2
        truth = objects[0][objects[2][image] + index[image, prior]].double()
        quality = torchvision.ops.box_iou(torch.cat((middle - half, middle + half))[None], truth[None])[0, 0]
        target = torch.zeros(5, dtype=torch.float64)
        target[labels[image, prior]], target[0] = quality, 1 - quality
        losses[image, prior] = F.cross_entropy(logits[image, prior], target)
    return losses


@pytest.mark.parametrize("normalizer", ["batch", "image", "batch_size"])
def test_class_loss_equals_soft_cross_entropy_from_scratch(normalizer: str) -> None:
    loc, logits, priors, objects = inputs_of()
    expected = soft_cross_entropies(loc, logits, priors, objects).sum(dim=1)
    positives = (MultiBoxLoss(Preset("own")).match(priors, *objects).labels > 0).sum(dim=1)
    assert positives.min() == 0 and positives.max() > 1
    divisor = {"batch": positives.sum(), "image": 3 * positives.clamp(min=1), "batch_size": torch.tensor(3)}[normalizer]
    of_positives, mined, hard = (
        loss_with(normalizer=normalizer, **rules)(loc, logits, priors, *objects)["cls"]
        for rules in ({"class_target": "iou", "neg_pos_ratio": 0.0}, {"class_target": "iou"}, {})
    )
    wanted = (expected / divisor).sum()
    torch.testing.assert_close(of_positives, wanted, rtol=1e-6, atol=0)  # targets are those of boxes in float32
    hard_of_positives = loss_with(normalizer=normalizer, neg_pos_ratio=0.0)(loc, logits, priors, *objects)["cls"]
    torch.testing.assert_close(mined - hard, wanted - hard_of_positives, rtol=1e-6, atol=0)  # negatives as before


def test_iou_target_by_hand() -> None:
    loc, logits = torch.zeros(1, 4, 4), torch.zeros(1, 4, 2)
    loc[0, 1, 0] = 5.0  # 5 * variance 0.1 * width 0.25: shifted by half a width, IoU 1/3
    logits[0, 1] = torch.tensor([0.5, 2.0])
    args = (logits, PRIORS, BOX, torch.tensor([1]), torch.tensor([0, 1]))
    hard, soft = (loss_with(class_target=target)(loc, *args)["cls"] for target in ("hard", "iou"))
    assert (soft - hard).item() == pytest.approx(2 / 3 * 1.5, abs=1e-6)
    fitting = loss_with(class_target="iou")(torch.zeros(1, 4, 4), *args)["cls"]
    assert torch.equal(fitting, hard)  # IoU 1
    empty = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert loss_with(class_target="iou")(loc, logits, PRIORS, *empty)["cls"].item() == 0


@pytest.mark.parametrize("by_levels", [False, True])
def test_gradient_of_iou_target_is_exact_and_leaves_boxes_alone(by_levels: bool) -> None:
    loc, logits, priors, objects = inputs_of()
    matches = MultiBoxLoss(Preset("own")).match(priors, *objects)
    outputs = [[loc], [logits]]
    if by_levels:
        outputs = [
            [
                rows.reshape(3, *cells, -1).permute(0, 3, 1, 2).contiguous()
                for rows, cells in zip(values.split([12, 3], dim=1), CELLS, strict=True)
            ]
            for values in (loc, logits)
        ]
    leaves = [values.requires_grad_() for values in outputs[0] + outputs[1]]

    def term(*values: Tensor) -> Tensor:
        half = len(values) // 2
        of_loc, of_logits = [*values[:half]], [*values[half:]]
        pair: Any = (of_loc, of_logits) if by_levels else (of_loc[0], of_logits[0])
        return iou_target_term(*pair, priors, matches, (0.1, 0.2), "batch")

    for_loc = torch.autograd.grad(term(*leaves), leaves[: len(leaves) // 2], allow_unused=True)
    assert all(gradient is None for gradient in for_loc)
    fixed = [values.detach() for values in outputs[0]]
    assert torch.autograd.gradcheck(lambda *values: term(*fixed, *values), outputs[1], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_iou_target_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    loc, logits, priors, objects = inputs_of(dtype)
    logits = (logits * 8).requires_grad_()
    loss = loss_with(class_target="iou")
    half = loss(loc, logits, priors, *objects)["cls"]
    full = loss(loc.float(), logits.detach().float(), priors, *objects)["cls"]
    torch.testing.assert_close(half, full)
    half.backward()
    assert logits.grad is not None and logits.grad.dtype == dtype and logits.grad.isfinite().all()


def test_option_is_refused_where_it_cannot_act() -> None:
    assert get_preset("caffe").class_target == "hard"
    with pytest.raises(ValueError, match="class_target must be one of hard, iou, got 'giou'"):
        get_preset("caffe", overrides={"class_target": "giou"})
    config = replace(SMALL, dataset="shapes", model_options={"class_target": "iou", "scores": "sigmoid"})
    with pytest.raises(ConfigError, match="class_target must be hard if scores is sigmoid, which cannot be trained"):
        make_model(config, open_datasets(config)[0])


def test_run_with_iou_target_trains_and_predicts(tmp_path: Path) -> None:
    options = {**SMALL.model_options, "class_target": "iou"}
    sizes = {"size": 16, "image_size": 64}
    run(replace(SMALL, epochs=1, pictures=0, dataset_options=sizes, model_options=options, output_dir=str(tmp_path)))
    rows = CsvLog(tmp_path / "train.csv").rows()
    assert len(rows) == 2 and all(0 < row["cls_loss"] < 100 for row in rows)
    detector = ssd.load(str(tmp_path / "last.pt"))
    assert detector.model.preset.class_target == "iou"
    plain = ssd.build_model("ssd_tiny", 4, image_size=64, **SMALL.model_options)
    assert detector.model.state_dict().keys() == plain.state_dict().keys()
