"""What kind of error each wrong detection is, and what mending one kind would be worth.

After the idea of TIDE (Bolya et al. 2020): an error matters by the AP that it costs, not by how often it occurs.
"""

import numpy as np

from ssd.evaluate.matching import ERRORS, Matches, average_precision


def classify(found: Matches, threshold: float, near: float) -> np.ndarray:
    """Names each detection of a class.

    Returns:
        ``[D]`` of ``"right"``; ``"ignored"``, its object is; ``"duplicate"``, its object was found with a higher score;
        ``"confusion"``, it lies on an object of another class (IoU at least `threshold`); ``"localization"``, it
        lies on an object of its class, but badly (IoU from `near` up to `threshold`); ``"background"``, none of
        these. The first that applies counts.
    """
    hit = (found.iou >= threshold) & (found.gt >= 0)
    on_ignored = hit.copy()
    on_ignored[hit] = found.gt_ignore[found.gt[hit]]
    claims = np.flatnonzero(hit & ~on_ignored)
    first = claims[np.unique(found.gt[claims], return_index=True)[1]]
    kinds = np.full(len(found.iou), "background", dtype="<U12")
    kinds[(found.iou >= near) & ~hit] = "localization"
    kinds[(found.other_iou >= threshold) & ~hit] = "confusion"
    kinds[claims] = "duplicate"
    kinds[first] = "right"
    kinds[on_ignored] = "ignored"
    return kinds


def gains(found: Matches, kinds: np.ndarray, objects: int, method: str) -> dict[str, float]:
    """Returns for each kind of error by how much AP would rise without it.

    Badly placed detections become right where they are the best one of an object that is otherwise not found, and
    vanish elsewhere; duplicates, confusions and background vanish; missed objects (found neither well nor badly) are
    not asked for.
    """
    if objects == 0:
        return {kind: 0.0 for kind in (*ERRORS, "missed")}
    before = average_precision(kinds[kinds != "ignored"] == "right", objects, method)
    out = {}
    for kind in ERRORS:
        mended = kinds.copy()
        rows = np.flatnonzero(kinds == kind)
        mended[rows] = "ignored"
        if kind == "localization":
            taken = np.concatenate([found.gt[kinds == "right"], np.flatnonzero(found.gt_ignore)])
            rows = rows[~np.isin(found.gt[rows], taken)]
            mended[rows[np.unique(found.gt[rows], return_index=True)[1]]] = "right"
        out[kind] = average_precision(mended[mended != "ignored"] == "right", objects, method) - before
    seen = np.zeros(len(found.gt_ignore), dtype=bool)
    seen[found.gt[np.isin(kinds, ("right", "localization"))]] = True
    asked = int((seen & ~found.gt_ignore).sum())
    # where none is found, to find them is all that can raise AP
    after = average_precision(kinds[kinds != "ignored"] == "right", asked, method) if asked else 1.0
    out["missed"] = after - before
    return out
