"""Faults of images, boxes, splits and whole data sets, and a repaired copy without them."""
