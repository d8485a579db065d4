"""Whole detectors against torchvision's with the same weights: inference, a training step, and the parts of both.

python benchmarks/bench_detector.py [--models NAME ...] [--batches N ...] [--variants compile graph channels_last amp]
                                    [--filter inference|training|backbone|...] [--quick] [--json FILE]

`compiled` is this project's detector with its compiled ops, called as torchvision's is: a list of images in, a list of
detections or a dict of losses out. The variants are the same detector under torch.compile(fullgraph=True), replayed from a
CUDA graph, in channels_last, and with autocast in bfloat16. Weights are random; the classification heads are scaled so
that a few hundred candidates an image pass the threshold, as in a trained detector.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import _path  # noqa: F401
import torch
import torchvision.models.detection as detection
from torch import Tensor

from benchmarks import detector_variants as variants
from benchmarks.harness import Case, command_line, run
from benchmarks.peers import match_and_encode
from ssd.models import SSD, build_model

CLASSES = 91
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
        logits = self.ours.eval().forward_raw(torch.randn(1, 3, self.size, self.size, device=self.device))[1]
        scale = 1.5 / logits.flatten(0, -2).std(0).mean().clamp(min=1e-6)
        final = [m for m in self.ours.head.classification_head.modules() if getattr(m, "bias", None) is not None]
        for module in final:
            if isinstance(module, torch.nn.Conv2d) and module.out_channels % CLASSES == 0:
                module.weight.mul_(scale)
                module.bias.zero_()[::CLASSES] = 9.0  # the background of each prior of a cell

    def images(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(batch, 3, self.size, self.size, generator=generator).to(self.device)

    def targets(self, batch: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
        """Make objects near priors: where several priors are equally good, torchvision's pixels round another way."""
        targets = []
        for _ in range(batch):
            near = self.ours.priors.cpu()[torch.randint(0, len(self.ours.priors), (8,), generator=generator)]
            side = (near[:, 2:] - near[:, :2]).repeat(1, 2)
            boxes = near + 0.05 * side * torch.rand(8, 4, generator=generator)
            labels = torch.randint(1, CLASSES, (8,), generator=generator)
            targets.append({"boxes": (boxes * self.size).to(self.device), "labels": labels.to(self.device)})
        return targets


def main() -> None:
    """Run the cases that the command line asks for."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=PEERS, default=list(PEERS)[::-1])
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 4 32 on a GPU; on a CPU 1 and 4")
    parser.add_argument("--variants", nargs="*", choices=variants.NAMES, help="default: all on a GPU, none on a CPU")
    arguments = parser.parse_args()
    run(__doc__.splitlines()[0], arguments, cases(arguments))


def cases(arguments: argparse.Namespace) -> list[Case]:
    """Return the cases; on a CPU few enough to end in some minutes."""
    device = torch.device(arguments.device)
    gpu = device.type == "cuda"
    models = arguments.models[:1] if arguments.quick else arguments.models
    found = []
    for name in models:
        batches = arguments.batches or ((1, 4, 32) if gpu else (1,) if arguments.quick else (1, 4))
        chosen = arguments.variants if arguments.variants is not None else variants.NAMES if gpu else ()
        for batch in batches:
            found += [_inference(name, batch, device, chosen), *_parts_of_inference(name, batch, device)]
        for batch in [batch for batch in batches if batch > 1] or (2,):  # BatchNorm of one pixel needs two images
            found += [_training(name, batch, device, chosen), *_parts_of_training(name, batch, device)]
    return found


def _case(
    title: str,
    make: Callable[[torch.Generator, torch.device], tuple[Any, ...]],
    candidates: dict[str, Callable[..., Any]],
    check: Callable[[Any, Any], None],
) -> Case:
    return Case(title, make, candidates, check, input_sets=2, standard="torchvision")


def _inference(name: str, batch: int, device: torch.device, chosen: tuple[str, ...]) -> Case:
    pair = partial(Pair, name, device, False)

    def make(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        return (pair().images(batch, generator),)

    @torch.no_grad()
    def ours(images: Tensor) -> Any:
        return pair().ours(list(images))

    @torch.no_grad()
    def peer(images: Tensor) -> Any:
        return pair().peer(list(images))

    others = {f"compiled, {v}": variants.inference(v, lambda: pair().ours) for v in chosen}
    return _case(f"inference, {name}, batch {batch}", make, {"compiled": ours, "torchvision": peer, **others}, _alike)


def _alike(result: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    """Compare the scores of all detections: boxes within rounding of another's score may change places."""
    for ours, theirs in zip(result, expected, strict=True):
        found, wanted = len(ours["scores"]), len(theirs["scores"])
        assert abs(found - wanted) <= 0.05 * wanted, f"{found} detections, {wanted} expected"
        least = min(found, wanted)
        apart = (ours["scores"][:least].float() - theirs["scores"][:least]).abs()
        assert (apart <= 0.02 + 0.05 * theirs["scores"][:least]).all(), f"a score differs by {apart.max():g}"
        if least and not apart.any():
            assert ours["boxes"].shape == theirs["boxes"].shape


def _parts_of_inference(name: str, batch: int, device: torch.device) -> list[Case]:
    pair = partial(Pair, name, device, False)

    def images(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        return (pair().ours.normalize(pair().images(batch, generator)),)

    @torch.no_grad()
    def features(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        return (list(pair().ours.backbone(*images(generator, device))),)

    @torch.no_grad()
    def raw(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        return pair().ours.forward_raw(*images(generator, device))

    def peer_detections(loc: Tensor, logits: Tensor) -> Any:
        peer, side = pair().peer, pair().size
        outputs = {"bbox_regression": loc, "cls_logits": logits}
        return peer.postprocess_detections(outputs, [pair().ours.priors * side] * batch, [(side, side)] * batch)

    def our_detections(loc: Tensor, logits: Tensor) -> Any:
        return variants.as_lists(pair().ours.detect(loc, logits), pair().size)

    def peer_heads(levels: list[Tensor]) -> tuple[Tensor, ...]:
        outputs = pair().peer.head(levels)
        return outputs["bbox_regression"], outputs["cls_logits"]

    no_grad, at = torch.no_grad(), f"{name}, batch {batch}"
    backbones = {"compiled": lambda x: list(pair().ours.backbone(x)), "torchvision": lambda x: _levels(pair().peer, x)}
    heads = {"compiled": lambda x: pair().ours.head(x), "torchvision": peer_heads}
    posts = {"compiled": our_detections, "torchvision": peer_detections}
    return [
        _case(f"backbone, {at}", images, {k: no_grad(v) for k, v in backbones.items()}, _close),
        _case(f"heads, {at}", features, {k: no_grad(v) for k, v in heads.items()}, _close),
        _case(f"post-process, {at}", raw, {k: no_grad(v) for k, v in posts.items()}, _alike),
    ]


def _levels(peer: Any, images: Tensor) -> list[Tensor]:
    return list(peer.backbone(images).values())


def _close(result: Any, expected: Any) -> None:
    for value, target in zip(result, expected, strict=True):
        torch.testing.assert_close(value, target, rtol=1e-3, atol=1e-3)


def _training(name: str, batch: int, device: torch.device, chosen: tuple[str, ...]) -> Case:
    pair = partial(Pair, name, device, True)

    def make(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        return pair().images(batch, generator), pair().targets(batch, generator)

    steps = {
        "compiled": variants.training_step(lambda: pair().ours),
        "torchvision": variants.training_step(lambda: pair().peer),
        **{f"compiled, {v}": variants.training_variant(v, lambda: pair().ours) for v in chosen},
    }
    return _case(f"training step, {name}, batch {batch}", make, steps, _same_losses)


def _same_losses(result: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for value, target in zip(result, expected, strict=True):
        torch.testing.assert_close(value.float(), target.float(), rtol=2e-2, atol=1e-2)


def _parts_of_training(name: str, batch: int, device: torch.device) -> list[Case]:
    pair = partial(Pair, name, device, True)

    def truths(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        targets = pair().targets(batch, generator)
        return [t["boxes"] / pair().size for t in targets], [t["labels"] for t in targets]

    def raw(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        objects = truths(generator, device)
        matches = pair().ours.criterion.match(pair().ours.priors, *objects)
        shape = (batch, len(pair().ours.priors))
        loc, logits = (torch.randn(*shape, n, generator=generator).to(device) for n in (4, CLASSES))
        return loc.requires_grad_(), logits.requires_grad_(), matches, objects

    def ours(boxes: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
        matches = pair().ours.criterion.match(pair().ours.priors, boxes, labels)
        return matches.labels, matches.loc_targets

    matching = {"compiled": ours, "torchvision": lambda b, x: match_and_encode(b, x, pair().ours.priors)}
    losses = {
        "compiled": variants.loss_and_gradient(lambda: pair().ours),
        "torchvision": variants.loss_and_gradient(lambda: pair().peer, lambda: pair().ours.priors),
    }
    return [
        _case(f"matching, {name}, batch {batch}", truths, matching, _close),
        _case(f"loss, {name}, batch {batch}", raw, losses, _same_losses),
    ]


if __name__ == "__main__":
    main()
