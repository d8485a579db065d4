"""Classifies false positives by kind of error, and measures how much AP fixing one kind would gain.

Follows the idea of TIDE (Bolya et al. 2020): errors are weighed by the AP that they cost, not by their number.
"""

import numpy as np

from ssd.evaluate.matching import ERRORS, Matches, average_precision


def classify(matches: Matches, threshold: float, near: float) -> np.ndarray:
    """Classifies each detection of a class.

    Returns:
        `[D]`, the first of these that applies: `"ignored"`, it matches an ignored object; `"correct"`; `"duplicate"`,
        its object is already matched by a detection of higher score; `"confusion"`, it overlaps an object of another
        class (IoU at least `threshold`); `"localization"`, it overlaps an object of its class, but not enough (IoU from
        `near` up to `threshold`); else `"background"`.
    """
    hit = (matches.iou >= threshold) & (matches.gt >= 0)
    on_ignored = hit.copy()
    on_ignored[hit] = matches.gt_ignore[matches.gt[hit]]
    matched = np.flatnonzero(hit & ~on_ignored)
    first = matched[np.unique(matches.gt[matched], return_index=True)[1]]
    kinds = np.full(len(matches.iou), "background", dtype="<U12")
    kinds[(matches.iou >= near) & ~hit] = "localization"
    kinds[(matches.other_iou >= threshold) & ~hit] = "confusion"
    kinds[matched] = "duplicate"
    kinds[first] = "correct"
    kinds[on_ignored] = "ignored"
    return kinds


def gains(matches: Matches, kinds: np.ndarray, objects: int, method: str) -> dict[str, float]:
    """Returns how much AP would increase if all errors of one kind were fixed, for each kind.

    The best localization error on an object that is not detected otherwise becomes correct, the others are removed;
    duplicates, confusions and background detections are removed; missed objects (with neither a correct detection nor a
    localization error) are removed.
    """
    if objects == 0:
        return {kind: 0.0 for kind in (*ERRORS, "missed")}
    before = average_precision(kinds[kinds != "ignored"] == "correct", objects, method)
    out = {}
    for kind in ERRORS:
        fixed = kinds.copy()
        rows = np.flatnonzero(kinds == kind)
        fixed[rows] = "ignored"
        if kind == "localization":
            unavailable = np.concatenate([matches.gt[kinds == "correct"], np.flatnonzero(matches.gt_ignore)])
            rows = rows[~np.isin(matches.gt[rows], unavailable)]
            fixed[rows[np.unique(matches.gt[rows], return_index=True)[1]]] = "correct"
        out[kind] = average_precision(fixed[fixed != "ignored"] == "correct", objects, method) - before
    detected = np.zeros(len(matches.gt_ignore), dtype=bool)
    detected[matches.gt[np.isin(kinds, ("correct", "localization"))]] = True
    remaining = int((detected & ~matches.gt_ignore).sum())
    # if no object is detected, only detecting them can increase AP
    after = average_precision(kinds[kinds != "ignored"] == "correct", remaining, method) if remaining else 1.0
    out["missed"] = after - before
    return out
