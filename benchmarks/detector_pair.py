"""A detector of this project and torchvision's with the same weights, and what their results have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torchvision.models.detection as detection
from torch import Tensor

from ssd.models import SSD, build_model

CLASSES = 91
CANDIDATES = 300  # scores above the threshold, an image
MOST_OBJECTS = 15  # an image
PEERS: dict[str, Callable[..., torch.nn.Module]] = {
    "ssd300_vgg16": detection.ssd300_vgg16,
    "ssdlite320_mobilenet_v3_large": detection.ssdlite320_mobilenet_v3_large,
}


@cache  # made when the first case that needs it is run
class Pair:
    """A detector of this project, torchvision's with the same weights, and inputs for both."""

    def __init__(self, name: str, device: torch.device, training: bool):
        torch.manual_seed(0)
        self.ours: SSD = build_model(name, CLASSES).to(device)
        self.peer: Any = PEERS[name](weights=None, weights_backbone=None, num_classes=CLASSES).to(device)
        self.device, self.size = device, self.ours.image_size
        if not training:
            self._act_trained()
        self.peer.load_state_dict(self.ours.state_dict())
        self.ours.train(training), self.peer.train(training)

    @torch.no_grad()
    def _act_trained(self) -> None:
        """Let logits spread around 0, then raise the background's until CANDIDATES an image pass the score threshold."""
        images = self.ours.eval().normalize(self.images(2, torch.Generator().manual_seed(1)))
        head, features = self.ours.head.classification_head, self.ours.backbone(images)
        final = [[m for m in level.modules() if isinstance(m, torch.nn.Conv2d)][-1] for level in head.module_list]
        for layer, level, feature in zip(final, head.module_list, features, strict=True):
            layer.bias.sub_(level(feature).mean((0, 2, 3)))
        scale = 1.5 / head(features).std()
        for layer in final:
            layer.weight.mul_(scale), layer.bias.mul_(scale)
        logits, low, high = head(features), 0.0, 40.0
        for _ in range(20):
            raised = logits + torch.eye(CLASSES, device=self.device)[0] * (low + high) / 2
            found = (raised.softmax(-1)[..., 1:] > self.ours.preset.score_threshold).sum() / len(images)
            low, high = ((low + high) / 2, high) if found > CANDIDATES else (low, (low + high) / 2)
        for layer in final:
            layer.bias.view(-1, CLASSES)[:, 0] += high  # the background of each prior of a cell

    def images(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(batch, 3, self.size, self.size, generator=generator).to(self.device)

    def targets(self, batch: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
        """Make objects near priors: where several priors are equally good, torchvision's pixels round another way."""
        targets = []
        for count in torch.randint(1, MOST_OBJECTS + 1, (batch,), generator=generator).tolist():
            near = self.ours.priors.cpu()[torch.randint(0, len(self.ours.priors), (count,), generator=generator)]
            side = (near[:, 2:] - near[:, :2]).repeat(1, 2)
            boxes = near + 0.05 * side * torch.rand(count, 4, generator=generator)
            labels = torch.randint(1, CLASSES, (count,), generator=generator)
            targets.append({"boxes": (boxes * self.size).to(self.device), "labels": labels.to(self.device)})
        return targets


def alike(result: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    """Find four in five of the detections again; all of them but for rounding, which in bfloat16 turns some of NMS."""
    for ours, theirs in zip(result, expected, strict=True):
        assert len(theirs["scores"]), "nothing is detected"
        scores = theirs["scores"].float()
        same = ours["labels"][:, None] == theirs["labels"]
        same &= (ours["scores"][:, None].float() - scores).abs() <= 0.02 + 0.05 * scores
        same &= (ours["boxes"][:, None] - theirs["boxes"]).abs().amax(-1) <= 10  # pixels
        share = same.any(0).float().mean() if len(ours["scores"]) else torch.zeros(())
        assert share >= 0.8, f"only {share:.0%} of the detections are found"


def close(result: Any, expected: Any) -> None:
    """Compare tensors one by one."""
    for value, target in zip(result, expected, strict=True):
        torch.testing.assert_close(value, target, rtol=1e-3, atol=1e-3)


def same_losses(result: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Compare losses, which bfloat16 moves by some hundredths."""
    for value, target in zip(result, expected, strict=True):
        torch.testing.assert_close(value.float(), target.float(), rtol=6e-2, atol=1e-2)


def same_matches(result: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Compare labels and encoded boxes prior by prior.

    On a GPU torchvision is not deterministic where two objects claim one prior: the prior may have either of them, and
    the object that loses it then has none or another.
    """
    labels, boxes = result
    other = (labels != expected[0]) | ~torch.isclose(boxes, expected[1], rtol=1e-3, atol=1e-3).all(dim=-1)
    contested = 2 * len(labels) if labels.is_cuda else 0
    assert int(other.sum()) <= contested, f"{int(other.sum())} priors are matched otherwise, {contested} may be"
