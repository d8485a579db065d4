"""Prior boxes: configuration, generation, published sizes, sizes fitted to a data set, and coverage of a data set."""

from ssd.priors.boxes import BoxOrder, Clip, PriorConfig, make_priors

__all__ = ["BoxOrder", "Clip", "PriorConfig", "make_priors"]
