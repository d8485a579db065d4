"""The two libraries that compute COCO's numbers: faster-coco-eval (C++) where it is installed, else pycocotools."""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

from ssd.data.faults import check_choice

BACKENDS = ("faster_coco_eval", "pycocotools")


def default_backend() -> str:
    """Returns the faster of the libraries that are installed."""
    return BACKENDS[0] if importlib.util.find_spec(BACKENDS[0]) else BACKENDS[1]


def evaluate_boxes(
    truth: dict[str, Any],
    found: dict[str, Any],
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    backend: str | None = None,
) -> Any:
    """Returns the finished ``COCOeval`` of either library; both print nothing and have the same members.

    Args:
        truth: content of a COCO JSON. Annotations with the key ``ignored`` are neither right nor wrong, without being
            crowds: their IoU is the ordinary one.
        found: the same with the detections as annotations, each with a score.
        image_ids: images to judge.
        category_ids: categories to judge; ``eval`` has them by rising id.
        backend: one of `BACKENDS`; `default_backend` where None.

    Raises:
        DataError: another backend.
        ModuleNotFoundError: the backend asked for is not installed.
    """
    backend = backend or default_backend()
    check_choice("backend", backend, BACKENDS)
    coco, evaluator = _classes(backend)
    with contextlib.redirect_stdout(io.StringIO()):
        indexed = []
        for data in (truth, found):
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

        class Evaluation(COCOeval):
            # Both libraries overwrite "ignore" with "iscrowd".
            def _prepare(self) -> None:
                super()._prepare()
                for objects in self._gts.values():
                    _ignore(objects)

        return COCO, Evaluation
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    class FasterEvaluation(COCOeval_faster):
        def _prepare(self) -> None:
            super()._prepare()
            _ignore(self.cocoGt.anns.values())

    return FasterCOCO, FasterEvaluation


def _ignore(objects: Any) -> None:
    for item in objects:
        item["ignore"] = item["ignore"] or item.get("ignored", 0)
