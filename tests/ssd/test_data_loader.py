"""Tests batches, their order and seeds, corrupt images, and the synthetic shapes data set."""

import itertools
from multiprocessing import get_context

import pytest
import torch

from ssd.data import DataError, ShapesDataset, build_loader, collate, open_dataset
from ssd.data.dataset import ImageError
from ssd.data.faults import Fault
from ssd.transforms import build_transforms


def shapes(size=10, **options):
    return open_dataset("shapes", size=size, image_size=64, **options)


class Torn(ShapesDataset):
    """Shapes with some unreadable images."""

    torn = frozenset({1, 2, 7})

    def load_image(self, index):
        if index in self.torn:
            raise ImageError(Fault(f"shape {index}", "image unreadable", "torn"))
        return super().load_image(index)


def test_collate_packs_targets():
    dataset = shapes()
    samples = [dataset[i] for i in range(4)]
    samples[1][1]["boxes"], samples[1][1]["labels"] = torch.empty(0, 4), torch.empty(0, dtype=torch.int64)
    samples[1][1]["ignore"] = torch.empty(0, dtype=torch.bool)
    batch = collate(samples)
    counts = [len(target["labels"]) for _, target in samples]
    assert batch.images.shape == (4, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.offsets.tolist() == [0, *itertools.accumulate(counts)] and batch.offsets.dtype == torch.int64
    assert torch.equal(batch.gt_boxes, torch.cat([target["boxes"] for _, target in samples]) / 64)
    assert batch.sizes.tolist() == [[64, 64]] * 4 and batch.image_ids == [0, 1, 2, 3] and len(batch) == 4
    for target, (_, expected) in zip(batch.targets(), samples, strict=True):
        assert torch.equal(target["boxes"], expected["boxes"]) and torch.equal(target["labels"], expected["labels"])
    moved = batch.to("meta")
    assert moved.images.device.type == "meta" and moved.sizes.device.type == "cpu"


def test_collate_empty_targets_and_errors():
    empty = collate([])
    assert (
        len(empty) == 0 and empty.offsets.tolist() == [0] and empty.gt_boxes.shape == (0, 4) and empty.targets() == []
    )
    image, target = shapes()[0]
    with pytest.raises(DataError, match=r"one size, got \[3, 64, 64\] and \[3, 64, 32\] \(image_id 0\)"):
        collate([(image, target), (image[:, :, :32], target)])
    with pytest.raises(DataError, match=r"uint8 \[3, H, W\], got torch.float32"):
        collate([(image.float(), target)])


def same(a, b):
    return (
        a.image_ids == b.image_ids
        and torch.equal(a.images, b.images)
        and torch.equal(a.gt_boxes, b.gt_boxes)
        and torch.equal(a.offsets, b.offsets)
    )


def test_batches_do_not_depend_on_num_workers():
    augment = build_transforms("ssd", 48, train=True)
    alone, helped = (build_loader(shapes(), augment, 4, train=True, workers=n, seed=3) for n in (0, 2))
    for _ in range(2):
        assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_workers_take_any_transform_under_every_start_method(monkeypatch):
    monkeypatch.setattr("multiprocessing.context._default_context._actual_context", get_context("forkserver"))
    loader = build_loader(shapes(), lambda *sample: sample, 5, train=False, workers=1)  # pickle rejects a lambda
    assert [len(batch) for batch in loader] == [5, 5]


def test_epochs_differ_and_resume():
    augment = build_transforms("ssd", 48, train=True)
    loader = build_loader(shapes(), augment, 4, train=True)
    first, second = list(loader), list(loader)
    assert loader.epoch == 2 and len(first) == len(loader) == 2
    assert not same(first[0], second[0])
    resumed = build_loader(shapes(), augment, 4, train=True)
    resumed.set_epoch(1)
    assert all(same(a, b) for a, b in zip(resumed, second, strict=True))
    other = build_loader(shapes(), augment, 4, train=True, seed=1)
    assert not same(next(iter(other)), first[0])


def test_loader_leaves_global_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(build_loader(shapes(), build_transforms("ssd", 48, train=True), 5, train=True))
    assert torch.equal(torch.rand(3), expected)


def test_drop_last_batch():
    assert [len(b) for b in build_loader(shapes(), None, 4, train=True)] == [4, 4]
    assert [len(b) for b in build_loader(shapes(), None, 4, train=False)] == [4, 4, 2]
    with pytest.warns(UserWarning, match="a batch of 16 is more than the 10 images"):
        loader = build_loader(shapes(), None, 16, train=True)
    assert [len(b) for b in loader] == [10] and len(loader) == 1


def test_epoch_is_split_over_ranks():
    ranks = [build_loader(shapes(), None, 2, train=False, rank=r, world_size=3) for r in range(3)]
    ids = [[i for b in loader for i in b.image_ids] for loader in ranks]
    assert sorted(itertools.chain(*ids)) == list(range(10))
    ranks = [build_loader(shapes(), None, 2, train=True, rank=r, world_size=3) for r in range(3)]
    ids = [[i for b in loader for i in b.image_ids] for loader in ranks]
    assert {len(i) for i in ids} == {4} and set(itertools.chain(*ids)) == set(range(10))
    with pytest.raises(DataError, match="rank 3, world_size 3"):
        build_loader(shapes(), None, 2, train=True, rank=3, world_size=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_images_in_training_are_replaced(workers):
    dataset = Torn(size=10, image_size=64)
    loader = build_loader(dataset, None, 5, train=True, workers=workers)
    for _ in range(2):
        assert [len(b) for b in loader] == [5, 5]
    assert sorted(f.file for f in dataset.report) == ["shape 1", "shape 2", "shape 7"]
    assert dataset.summary().faults == {"image unreadable": 3}  # two epochs, counted once


def test_corrupt_images_in_evaluation_are_skipped():
    dataset = Torn(size=10, image_size=64)
    assert [b.image_ids for b in build_loader(dataset, None, 4, train=False)] == [[0, 3], [4, 5, 6], [8, 9]]
    assert len(dataset.report) == 3
    assert [b.image_ids for b in build_loader(dataset, None, 1, train=False)] == [[i] for i in (0, 3, 4, 5, 6, 8, 9)]


def test_corrupt_images_raise_when_asked():
    dataset = Torn(size=10, image_size=64)
    dataset.log.mode = "raise"
    with pytest.raises(DataError, match="shape 1: image unreadable"):
        list(build_loader(dataset, None, 4, train=False))


def test_all_images_corrupt_raises():
    dataset = Torn(size=3, image_size=64)
    dataset.torn = frozenset(range(3))
    with pytest.raises(DataError, match="none of its images can be read"):
        list(build_loader(dataset, None, 3, train=True))


def test_shapes_are_deterministic_and_splits_disjoint():
    train, again, val, other = shapes(40), shapes(40), shapes(40, split="val"), shapes(40, seed=1)
    assert all(torch.equal(train[i][0], again[i][0]) for i in reversed(range(40)))
    bytes_of = [{d[i][0].numpy().tobytes() for i in range(40)} for d in (train, val, other)]
    assert len(bytes_of[0] | bytes_of[1] | bytes_of[2]) == 120
    assert torch.equal(shapes(5)[4][0], train[4][0]), "an image does not depend on how many there are"


def test_shapes_boxes_fit_the_drawn_objects():
    # Against the same image drawn without its shapes, exactly the inside of the boxes differs.
    dataset = shapes(60, cache=False)
    drawn = [dataset.load_image(i).int() for i in range(60)]
    layouts, dataset._layouts = dataset._layouts, [[] for _ in range(60)]
    touched = 0
    for i, layout in enumerate(layouts):
        if len(layout) != 1:
            continue
        x1, y1, x2, y2 = dataset.target(i)["boxes"][0].tolist()
        # Grain is drawn after the shape's color, so compare the smooth image: shapes stand out by more than the grain.
        change = (drawn[i] - dataset.load_image(i).int()).abs().sum(0) > 3 * 2 * 16
        ys, xs = change.nonzero(as_tuple=True)
        assert len(xs) and x1 - 1.5 < int(xs.min()) and int(xs.max()) < x2 + 1.5
        assert y1 - 1.5 < int(ys.min()) and int(ys.max()) < y2 + 1.5
        touched += 1
    assert touched >= 5


def test_shapes_split_and_size_errors():
    assert len(set(shapes(200).annotations.labels.tolist())) == 4
    with pytest.raises(DataError, match="splits train, val, test, got 'dev'"):
        shapes(split="dev")
    with pytest.raises(DataError, match="image_size 8"):
        open_dataset("shapes", image_size=8)
