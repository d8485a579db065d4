"""A detector of this project and torchvision's with the same weights, their inputs, and checks of their results."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torchvision.models.detection as detection
from torch import Tensor

from ssd.models import SSD, build_model

CLASSES = 91
CANDIDATES = 300  # scores above the threshold per image
MAX_OBJECTS = 15  # per image
PEERS: dict[str, Callable[..., torch.nn.Module]] = {
    "ssd300_vgg16": detection.ssd300_vgg16,
    "ssdlite320_mobilenet_v3_large": detection.ssdlite320_mobilenet_v3_large,
}


@cache  # built when the first case that needs it runs
class Pair:
    """A detector of this project, torchvision's with the same weights, and inputs for both."""

    def __init__(self, name: str, device: torch.device, training: bool):
        torch.manual_seed(0)
        self.ours: SSD = build_model(name, CLASSES).to(device)
        self.peer: Any = PEERS[name](weights=None, weights_backbone=None, num_classes=CLASSES).to(device)
        self.device, self.size = device, self.ours.image_size
        if not training:
            self._calibrate_scores()
        self.peer.load_state_dict(self.ours.state_dict())
        self.ours.train(training), self.peer.train(training)

    @torch.no_grad()
    def _calibrate_scores(self) -> None:
        """Centers the logits, then raises the background bias until CANDIDATES scores per image pass the threshold."""
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
            layer.bias.view(-1, CLASSES)[:, 0] += high  # the background logit of each prior of a cell

    def pixels(self, batch: int, generator: torch.Generator) -> Tensor:
        """Samples images uint8 [B, 3, S, S] on the CPU."""
        return torch.randint(0, 256, (batch, 3, self.size, self.size), dtype=torch.uint8, generator=generator)

    def images(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(batch, 3, self.size, self.size, generator=generator).to(self.device)

    def targets(self, batch: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
        """Samples objects close to priors: with equally good priors, the match would depend on rounding."""
        targets = []
        for count in torch.randint(1, MAX_OBJECTS + 1, (batch,), generator=generator).tolist():
            near = self.ours.priors.cpu()[torch.randint(0, len(self.ours.priors), (count,), generator=generator)]
            side = (near[:, 2:] - near[:, :2]).repeat(1, 2)
            boxes = near + 0.05 * side * torch.rand(count, 4, generator=generator)
            labels = torch.randint(1, CLASSES, (count,), generator=generator)
            targets.append({"boxes": (boxes * self.size).to(self.device), "labels": labels.to(self.device)})
        return targets


def similar_detections(result: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    """Checks that 80% of the detections agree: bfloat16 rounding changes some decisions of NMS."""
    for ours, theirs in zip(result, expected, strict=True):
        assert len(theirs["scores"]), "nothing is detected"
        scores = theirs["scores"].float()
        same = ours["labels"][:, None] == theirs["labels"]
        same &= (ours["scores"][:, None].float() - scores).abs() <= 0.02 + 0.05 * scores
        same &= (ours["boxes"][:, None] - theirs["boxes"]).abs().amax(-1) <= 10  # pixels
        found = same.any(0).float().mean() if len(ours["scores"]) else torch.zeros(())
        assert found >= 0.8, f"only {found:.0%} of the expected detections were found"


def close(result: Any, expected: Any) -> None:
    """Checks that tensors are close."""
    for value, target in zip(result, expected, strict=True):
        torch.testing.assert_close(value, target, rtol=1e-3, atol=1e-3)


def same_losses(result: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Checks that losses agree up to bfloat16 rounding."""
    for value, target in zip(result, expected, strict=True):
        torch.testing.assert_close(value.float(), target.float(), rtol=6e-2, atol=1e-2)


def same_matches(result: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Checks labels and encoded boxes of every prior.

    On a GPU, torchvision is not deterministic if two objects have the same best prior: the prior may be assigned to either
    of them, and the other object gets another prior or none.
    """
    labels, boxes = result
    other = (labels != expected[0]) | ~torch.isclose(boxes, expected[1], rtol=1e-3, atol=1e-3).all(dim=-1)
    contested = 2 * len(labels) if labels.is_cuda else 0
    assert int(other.sum()) <= contested, f"{int(other.sum())} priors have another match, at most {contested} expected"
