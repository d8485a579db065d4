"""Runs the predictors of all feature levels at once on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssd.models import SSD
from ssd.models.heads import Outputs, SSDHead


class ParallelHeads:
    """The `forward_levels` of a detector with each predictor on a stream of its own, with equal bits.

    Most predictors are too small to fill a GPU, so one after the other they take longer than the backbone.

    Args:
        net: Detector on a GPU that is supported.
    """

    def __init__(self, net: SSD) -> None:
        assert isinstance(net.head, SSDHead)
        self.net = net
        heads = (net.head.regression_head, net.head.classification_head)
        self._predictors: list[nn.Module] = [predictor for head in heads for predictor in head.module_list]
        self._streams = [torch.cuda.Stream(net.priors.device) for _ in self._predictors]

    @staticmethod
    def supports(net: SSD) -> bool:
        """Returns whether the outputs of a detector are those of an SSDHead."""
        return type(net).forward_levels is SSD.forward_levels and type(net.head) is SSDHead

    def __call__(self, images: Tensor) -> tuple[Outputs, Outputs]:
        """Maps normalized images to loc and logits of each level; without gradients."""
        features: list[Tensor] = self.net.backbone(images)
        current = torch.cuda.current_stream(images.device)
        outputs: list[Tensor] = []
        # The caching allocator reuses memory in the order of the stream that it was allocated on. That is safe here: all
        # streams start after everything launched before, and the features live until they have ended.
        for stream, predict, feature in zip(self._streams, self._predictors, [*features, *features], strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                outputs.append(predict(feature))
        for stream in self._streams:
            current.wait_stream(stream)
        return outputs[: len(features)], outputs[len(features) :]
