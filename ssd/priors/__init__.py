"""Prior boxes: configuration, boxes, published sizes, sizes fitted to a data set, and how well they cover it."""

from ssd.priors.boxes import BoxOrder, Clip, PriorConfig, make_priors

__all__ = ["BoxOrder", "Clip", "PriorConfig", "make_priors"]
