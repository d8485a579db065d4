"""Whole detectors against torchvision's with the same weights: inference, training step, and their parts.

python benchmarks/bench_detector.py [--models NAME ...] [--batches N ...] [--variants compile graph channels_last amp ...]
                                    [--filter inference|training|backbone|...] [--quick] [--json FILE]

`compiled` is this project's detector with its compiled ops, called like torchvision's: it takes a list of images and
returns a list of detections or a dict of losses; `engine float32` and `engine bfloat16` are `InferenceEngine.predict`
of the same images as uint8 on the CPU, with its detections on the CPU, in the default dtype and on a CPU also in
float32. Variants are the same detector with torch.compile(fullgraph=True), as a CUDA graph, in channels_last, with
bfloat16 autocast, or a combination (graph+channels_last+amp). torchvision's detector runs in those without a graph; of
its parts backbone and heads are compiled, as the others take lists. Weights are random; the classification heads are
scaled such that a few hundred candidates per image pass the threshold, like in a trained detector. Images have 1 to 15
objects.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import _path  # noqa: F401
import torch
from torch import Tensor

from benchmarks import detector_variants as variants
from benchmarks.detector_pair import CLASSES, PEERS, Pair, close, same_losses, same_matches, similar_detections
from benchmarks.harness import Case, command_line, run
from benchmarks.peers import match_and_encode
from benchmarks.roofline import TRAINING, forward_flops
from ssd.inference.engine import InferenceEngine
from ssd.models.half_precision import has_native_bfloat16

# oneDNN keeps the last 1024 of its primitives, which three variants of a training step exceed. As candidates take turns,
# each would make its own again, except where the previous one has just made the same.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

GPU_VARIANTS = (*variants.NAMES, "graph+channels_last+amp")


def main() -> None:
    """Runs the selected cases."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=PEERS, default=list(PEERS)[::-1])
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 4 32 on a GPU; on a CPU 1 and 4")
    parser.add_argument(
        "--variants",
        nargs="*",
        type=variants.variant,
        help=f"some of {', '.join(variants.NAMES)}, or several joined by +; default: {' '.join(GPU_VARIANTS)} on a GPU, "
        "none on a CPU",
    )
    arguments = parser.parse_args()
    if not arguments.device.startswith("cuda") and any("graph" in variant for variant in arguments.variants or ()):
        parser.error(f"--variants graph needs a GPU, got --device {arguments.device}")
    run(__doc__.splitlines()[0], arguments, cases(arguments))


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yields the cases one by one, so that the memory of one is freed before the next."""
    device = torch.device(arguments.device)
    gpu = device.type == "cuda"
    models = arguments.models[:1] if arguments.quick else arguments.models
    for name in models:
        batches = arguments.batches or ((1, 4, 32) if gpu else (1,) if arguments.quick else (1, 4))
        chosen = arguments.variants if arguments.variants is not None else GPU_VARIANTS if gpu else ()
        for batch in batches:
            yield _inference(name, batch, device, chosen)
            yield from _parts_of_inference(name, batch, device)
        for batch in [batch for batch in batches if batch > 1] or (2,):  # BatchNorm of one pixel needs two images
            yield _training(name, batch, device, chosen)
            yield from _parts_of_training(name, batch, device)


def _case(
    title: str,
    make: Callable[[torch.Generator, torch.device], tuple[Any, ...]],
    candidates: dict[str, Callable[..., Any]],
    check: Callable[[Any, Any], None],
    images: int = 0,
    flops: Callable[[], float] | None = None,
) -> Case:
    against: dict[str, Any] = {"check_against": "torchvision", "items": images, "item": "image", "flops": flops}
    return Case(title, make, candidates, check, input_sets=2, **against)


def _inference(name: str, batch: int, device: torch.device, chosen: Sequence[str]) -> Case:
    pair = partial(Pair, name, device, False)

    def make(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        pixels = pair().pixels(batch, generator)
        return pixels.to(device).float() / 255, pixels

    candidates = {k: _of_first(call) for k, call in _candidates(variants.inference, pair, chosen).items()}
    for dtype in _engine_dtypes(device):
        candidates[f"compiled, engine {str(dtype).removeprefix('torch.')}"] = _engine(pair, dtype)
    title = f"inference, {name}, batch {batch}"
    return _case(title, make, candidates, similar_detections, batch, lambda: batch * forward_flops(pair().ours))


def _engine_dtypes(device: torch.device) -> list[torch.dtype]:
    """Returns the dtypes to measure: the default of `InferenceEngine`, after float32 on a CPU."""
    half = [torch.bfloat16] if has_native_bfloat16(device) else []
    return half if half and device.type == "cuda" else [torch.float32, *half]


def _engine(pair: Callable[[], Pair], dtype: torch.dtype) -> Callable[[Tensor, Tensor], Any]:
    engine = cache(lambda: InferenceEngine(pair().ours, dtype=dtype))
    return lambda _, pixels: engine().predict([*pixels])


def _of_first(call: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    return lambda images, _: call(images)


def _candidates(
    way: Callable[..., Callable[..., Any]], pair: Callable[[], Pair], chosen: Sequence[str]
) -> dict[str, Callable[..., Any]]:
    """Returns both detectors, unchanged and in the chosen variants."""
    found = {"compiled": way(lambda: pair().ours), "torchvision": way(lambda: pair().peer)}
    for variant in chosen:
        found[f"compiled, {variant}"] = way(lambda: pair().ours, variant)
        if variants.is_for_torchvision(variant):
            found[f"torchvision, {variant}"] = way(lambda: pair().peer, variant)
    return found


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
        _case(f"backbone, {at}", images, {k: no_grad(v) for k, v in backbones.items()}, close),
        _case(f"heads, {at}", features, {k: no_grad(v) for k, v in heads.items()}, close),
        _case(f"post-process, {at}", raw, {k: no_grad(v) for k, v in posts.items()}, similar_detections),
    ]


def _levels(peer: Any, images: Tensor) -> list[Tensor]:
    return list(peer.backbone(images).values())


def _training(name: str, batch: int, device: torch.device, chosen: Sequence[str]) -> Case:
    pair = partial(Pair, name, device, True)

    def make(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        return pair().images(batch, generator), pair().targets(batch, generator)

    candidates = _candidates(variants.training_step, pair, chosen)
    title = f"training step, {name}, batch {batch}"
    return _case(title, make, candidates, same_losses, batch, lambda: TRAINING * batch * forward_flops(pair().ours))


def _parts_of_training(name: str, batch: int, device: torch.device) -> list[Case]:
    pair = partial(Pair, name, device, True)

    def ground_truths(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        targets = pair().targets(batch, generator)
        return [t["boxes"] / pair().size for t in targets], [t["labels"] for t in targets]

    def raw(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        objects = ground_truths(generator, device)
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
        _case(f"matching, {name}, batch {batch}", ground_truths, matching, same_matches),
        _case(f"loss, {name}, batch {batch}", raw, losses, same_losses),
    ]


if __name__ == "__main__":
    main()
