"""The two libraries that compute COCO's metrics: faster-coco-eval (C++) if installed, else pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from ssd.common.packages import is_installed
from ssd.data.faults import check_choice

BACKENDS = ("faster_coco_eval", "pycocotools")


def default_backend() -> str:
    """Returns the faster of the installed libraries."""
    return BACKENDS[0] if is_installed(BACKENDS[0]) else BACKENDS[1]


def evaluate_boxes(
    ground_truth: dict[str, Any],
    detections: dict[str, Any],
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    backend: str | None,
) -> Any:
    """Returns the finished `COCOeval` of either library; both print nothing and have the same attributes.

    Args:
        ground_truth: Content of a COCO JSON. Detections that match annotations with the key `ignored` count neither as
            true nor as false positives; unlike with crowds, the IoU is the usual one.
        detections: The same with the detections as annotations, each with a score.
        image_ids: Images to evaluate.
        category_ids: Categories to evaluate; `eval` has them in ascending order.
        backend: One of `BACKENDS`; None selects `default_backend`.

    Raises:
        DataError: Unknown backend.
        ModuleNotFoundError: The selected backend is not installed.
    """
    backend = backend or default_backend()
    check_choice("backend", backend, BACKENDS)
    coco, evaluator = _classes(backend)
    with contextlib.redirect_stdout(io.StringIO()):
        indexed = []
        for data in (ground_truth, detections):
            index = coco()
            index.dataset = data
            index.createIndex()
            indexed.append(index)
        evaluation = evaluator(*indexed, "bbox")
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.params.catIds = sorted(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _classes(backend: str) -> tuple[Any, Any]:
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        class Evaluation(COCOeval):  # type: ignore[misc]  # untyped
            # Both libraries overwrite "ignore" with "iscrowd".
            def _prepare(self) -> None:
                super()._prepare()
                for objects in self._gts.values():
                    _ignore(objects)

        return COCO, Evaluation
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    class FasterEvaluation(COCOeval_faster):  # type: ignore[misc]  # untyped
        def _prepare(self) -> None:
            super()._prepare()
            _ignore(self.cocoGt.anns.values())

    return FasterCOCO, FasterEvaluation


def _ignore(objects: Any) -> None:
    for item in objects:
        item["ignore"] = item["ignore"] or item.get("ignored", 0)
