"""Duplicate images: identical files, or nearly identical pixels (perceptual hash)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssd.data import Fault
from ssd.data_check.images import ImageFacts

_NEAR = 3  # bits in which the hashes of near-duplicates may differ; one of four 16-bit parts is then equal
_ALIKE = 0.985  # minimum correlation of the thumbnails of near-duplicates
_FLAT = 3.0  # gray levels: standard deviation of images too uniform to compare
_COMPARED = 100  # preceding images that an image is compared with in a group with an equal part of the hash


@dataclass(frozen=True)
class Duplicate:
    """A duplicate of an earlier image.

    Args:
        kind: Kind of the fault.
        file, split: The image.
        other, other_split: The earlier image.
    """

    kind: str
    file: str
    split: str
    other: str
    other_split: str

    @property
    def fault(self) -> Fault:
        """The fault to report."""
        near = "near" in self.kind
        what = f"{'nearly identical to' if near else 'identical to'} {self.other}"
        what = "the same file is listed twice" if self.file == self.other else what
        where = (
            f"in {self.split}"
            if self.split == self.other_split
            else f"in {self.other_split}; this one is in {self.split}"
        )
        return Fault(self.file, self.kind, f"{what}, {where}")


def find_duplicates(splits: Mapping[str, Sequence[ImageFacts]]) -> Iterator[Duplicate]:
    """Yields the duplicates of earlier images, in the same split or in another.

    Args:
        splits: Split -> its images.
    """
    images = [(split, facts) for split, found in splits.items() for facts in found if facts.thumbnail is not None]
    first: dict[bytes, tuple[str, ImageFacts]] = {}
    distinct: list[tuple[str, ImageFacts]] = []
    for split, facts in images:
        if facts.digest not in first:
            first[facts.digest] = (split, facts)
            distinct.append((split, facts))
            continue
        before, other = first[facts.digest]
        kind = "duplicate image" if before == split else "image in two splits"
        yield Duplicate(kind, facts.file, split, other.file, before)
    for one, two in _near_pairs([facts for _, facts in distinct]):
        (before, other), (split, facts) = distinct[one], distinct[two]
        kind = "near-duplicate" if before == split else "near-duplicate in two splits"
        yield Duplicate(kind, facts.file, split, other.file, before)


def _near_pairs(images: Sequence[ImageFacts]) -> Iterator[tuple[int, int]]:
    """Yields each image with the first preceding one that it is nearly equal to."""
    thumbnails = [_standardized(facts.thumbnail) for facts in images]
    found: dict[int, int] = {}
    for shift in range(0, 64, 16):
        groups: dict[int, list[int]] = defaultdict(list)
        for row, facts in enumerate(images):
            if thumbnails[row] is not None:
                groups[facts.perceptual_hash >> shift & 0xFFFF].append(row)
        for rows in groups.values():
            for index, two in enumerate(rows):
                for one in rows[max(0, index - _COMPARED) : index]:
                    if one < found.get(two, two) and _is_near(images, thumbnails, one, two):
                        found[two] = one
    yield from ((one, two) for two, one in sorted(found.items()))


def _is_near(images: Sequence[ImageFacts], thumbnails: Sequence[np.ndarray | None], one: int, two: int) -> bool:
    if (images[one].perceptual_hash ^ images[two].perceptual_hash).bit_count() > _NEAR:
        return False
    first, second = thumbnails[one], thumbnails[two]
    assert first is not None and second is not None
    return float((first * second).mean()) >= _ALIKE


def _standardized(thumbnail: np.ndarray | None) -> np.ndarray | None:
    if thumbnail is None or thumbnail.std() < _FLAT:
        return None
    values = thumbnail.astype(np.float32).ravel()
    standardized: np.ndarray = (values - values.mean()) / values.std()
    return standardized
