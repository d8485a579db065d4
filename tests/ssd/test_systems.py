"""Tests presets against values computed by hand from the code of each system: priors, targets, losses, heads, input."""

import math

import pytest
import torch

import ssd_ops
from ssd import build_model
from ssd.models.detector import build_priors
from ssd.models.extractor import Extractor
from ssd.models.heads import SSDHead, conv_predictor, xavier_init
from ssd.models.loss import MultiBoxLoss
from ssd.presets import PRESETS, get_preset
from ssd.priors import make_priors
from ssd.priors.sizes import SSD300_RATIOS, SSD512_RATIOS

GRIDS = {300: (38, 19, 10, 5, 3, 1), 512: (64, 32, 16, 8, 4, 2, 1), 320: (20, 10, 5, 3, 2, 1)}
SYSTEMS = ("amdegroot", "balancap", "caffe", "lufficc", "nvidia", "qfgaohao", "torchvision")


class Grids(Extractor):
    """Features of given sizes without a network."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def forward(self, images):
        return [images.new_empty(1, 1, size, size) for size in self.sizes]


def priors_of(preset, size=300, family="vgg", **changes):
    """Priors [P, 4] as cx, cy, w, h of the image."""
    ratios = {300: SSD300_RATIOS, 512: SSD512_RATIOS}[size] if family != "mobilenet_v2" else (2.0, 3.0)
    grids = (19, 10, 5, 3, 2, 1) if (family, size) == ("mobilenet_v2", 300) else GRIDS[size]
    return make_priors(build_priors(Grids(grids), size, get_preset(preset, family, changes), ratios), "cxcywh")


def test_every_system_has_a_preset():
    assert tuple(sorted(PRESETS)) == tuple(sorted((*SYSTEMS, "dusty_nv", "tensorflow")))  # these two have no VGG16
    assert all(name == preset.name for name, preset in PRESETS.items())


@pytest.mark.parametrize(
    ("preset", "size", "count", "centers_moved", "sizes_moved"),
    [
        ("caffe", 300, 8732, 0, 0),
        ("amdegroot", 300, 8732, 114, 20),
        ("qfgaohao", 300, 8732, 114, 20),
        ("lufficc", 300, 8732, 114, 20),
        ("nvidia", 300, 8732, 114, 2),
        ("torchvision", 300, 8732, 0, 2),
        ("balancap", 300, 8732, 0, 0),
        ("caffe", 512, 24564, 0, 0),
        ("lufficc", 512, 24564, 0, 42),
        ("torchvision", 512, 24564, 0, 42),
    ],
)
def test_prior_clipping_per_system(preset, size, count, centers_moved, sizes_moved):
    priors, plain = priors_of(preset, size), priors_of(preset, size, clip="none")
    assert priors.shape == (count, 4)
    moved = priors != plain
    assert moved[:, :2].any(dim=1).sum() == centers_moved and moved[:, 2:].any(dim=1).sum() == sizes_moved


@pytest.mark.parametrize(
    ("size", "sizes", "crossing"), [(300, "voc", 2869), (300, "coco", 2223), (512, "voc", 5486), (512, "coco", 4118)]
)
def test_caffe_priors_crossing_the_border(size, sizes, crossing):
    priors = priors_of("caffe", size, prior_sizes=sizes)
    corners = torch.cat((priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2), dim=1)
    assert ((corners < 0) | (corners > 1)).any(dim=1).sum() == crossing


def rows(*values):
    return torch.tensor(values, dtype=torch.float64).float()


def test_voc_prior_rows():
    # the last cell of the 10 x 10 level has its center at 9.5 * 32 = 304 of 300; its first box is 111 wide
    last = 5776 + 2166 + 6 * 99
    assert torch.equal(priors_of("caffe")[last], rows(304 / 300, 304 / 300, 0.37, 0.37))
    for name in ("amdegroot", "qfgaohao", "lufficc"):
        assert torch.equal(priors_of(name)[last], rows(1, 1, 0.37, 0.37))
    # the only cell of the last level: 264, sqrt(264 * 315), 264 * sqrt(2) by 264 / sqrt(2), and its inverse
    large, long, short = math.sqrt(264 * 315) / 300, 0.88 * math.sqrt(2), 0.88 / math.sqrt(2)
    expected = [(0.5, 0.5, 0.88, 0.88), (0.5, 0.5, large, large), (0.5, 0.5, long, short), (0.5, 0.5, short, long)]
    torch.testing.assert_close(priors_of("caffe")[8728:], rows(*expected), rtol=1e-6, atol=0)
    torch.testing.assert_close(priors_of("amdegroot")[8728:], rows(*expected).clamp(max=1), rtol=1e-6, atol=0)


def test_coco_prior_rows_and_nvidia_order():
    priors = priors_of("nvidia")
    # NVIDIA counts level, box, row, column; here it is level, row, column, box
    order = torch.cat(
        [
            start + torch.arange(grid * grid * boxes).view(grid, grid, boxes).permute(2, 0, 1).flatten()
            for start, grid, boxes in zip(
                (0, 5776, 7942, 8542, 8692, 8728), GRIDS[300], (4, 6, 6, 6, 4, 4), strict=True
            )
        ]
    )
    theirs = priors[order]
    near, far = 4 / 300, 12 / 300
    middle, long, short = math.sqrt(21 * 45) / 300, 0.07 * math.sqrt(2), 0.07 / math.sqrt(2)
    expected = {
        0: (near, near, 0.07, 0.07),
        1: (far, near, 0.07, 0.07),  # the next column
        38: (near, far, 0.07, 0.07),  # the next row
        1444: (near, near, middle, middle),  # the next box: 38 * 38 = 1444 cells
        2888: (near, near, long, short),
        4332: (near, near, short, long),
        5776: (8 / 300, 8 / 300, 0.15, 0.15),
        8731: (0.5, 0.5, 0.87 / math.sqrt(2), 1.0),
    }
    for row, box in expected.items():
        torch.testing.assert_close(theirs[row], rows(*box), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("preset", "size", "count", "step", "second"),
    [("qfgaohao", 300, 3000, 32, 105), ("lufficc", 320, 3234, 32, 105), ("torchvision", 320, 3234, 32, 112)],
)
def test_mobilenet_prior_rows(preset, size, count, step, second):
    priors = priors_of(preset, size, "mobilenet_v2")
    assert priors.shape == (count, 4)
    start = 6 * (19 * 19 if size == 300 else 20 * 20)
    expected = rows(step / 2 / size, step / 2 / size, second / size, second / size)
    torch.testing.assert_close(priors[start], expected, rtol=1e-6, atol=0)


def test_squeezenet_grid_and_lufficc_last_size():
    grids = Grids((17, 10, 5, 3, 2, 1))  # SqueezeNet's at an input of 300
    assert build_priors(grids, 300, get_preset("qfgaohao", "mobilenet_v2", {"steps": None}), (2, 3)).num_priors == 2568
    larger = math.sqrt(460.8 * 537.65) / 512  # written so there; the rule gives 537.6
    torch.testing.assert_close(priors_of("lufficc", 512)[24561], rows(0.5, 0.5, larger, larger), rtol=1e-6, atol=0)
    assert not torch.equal(priors_of("lufficc", 512), priors_of("amdegroot", 512))


# of a quarter of the image each; the third is half covered by the object, the fourth is the object
CELLS = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1], [0, 0, 0.5, 0.25]]


def match(preset, boxes, labels, priors=CELLS):
    rules = PRESETS[preset]
    return ssd_ops.match_priors(
        [torch.tensor(boxes)],
        [torch.tensor(labels)],
        torch.tensor(priors).float(),
        iou_threshold=rules.match_iou_threshold,
        rule=rules.rule,
        match_equal=rules.match_equal,
        variances=rules.variances,
    )


@pytest.mark.parametrize("preset", SYSTEMS)
def test_match_at_iou_equal_to_threshold(preset):
    found = match(preset, [[0, 0, 0.5, 0.25]], [7])  # IoU 0.5 with prior 0, 1 with prior 3
    first = 0 if preset in ("nvidia", "balancap") else 7
    assert found.labels.tolist() == [[first, 0, 0, 7]]


@pytest.mark.parametrize("preset", SYSTEMS)
def test_match_of_prior_best_for_two_objects(preset):
    # object 1 is prior 0; object 2 overlaps it by 0.6 and prior 2 by 1 / 7; prior 3 is far from both
    priors = [*CELLS[:3], [0.9, 0, 1, 0.1]]
    found = match(preset, [[0, 0, 0.5, 0.5], [0, 0.125, 0.5, 0.625]], [1, 2], priors)
    expected = {"caffe": [1, 0, 2, 0], "balancap": [1, 0, 0, 0]}.get(preset, [2, 0, 0, 0])
    assert found.labels.tolist() == [expected]
    if preset == "caffe":  # center 0.375 from 0.75, in sides of 0.5, over the variance 0.1
        assert found.loc_targets[0, 2].tolist() == [0, -7.5, 0, 0]
    elif preset != "balancap":
        assert found.loc_targets[0, 0].tolist() == [0, 2.5, 0, 0]


def test_clipped_priors_change_last_level_targets():
    box = torch.tensor([[18.0, 18, 282, 282]]) / 300  # the first prior of the last level with VOC sizes
    widths = {"caffe": math.log(1 / math.sqrt(2)) / 0.2, "amdegroot": math.log(0.88) / 0.2}
    for name, width in widths.items():
        priors = priors_of(name)
        corners = torch.cat((priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2), dim=1)
        found = match(name, box.tolist(), [3], corners.tolist())
        assert found.labels[0, 8728:].tolist() == [3, 3, 3, 3]  # IoU 1, 264 / 315, and 0.547 or 0.645 for the oblong
        expected = rows(
            (0, 0, 0, 0),
            (0, 0, *(math.log(264 / 315) / 2 / 0.2,) * 2),
            (0, 0, width, math.log(2) / 2 / 0.2),
            (0, 0, math.log(2) / 2 / 0.2, width),
        )
        torch.testing.assert_close(found.loc_targets[0, 8728:], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", SYSTEMS)
def test_batch_losses_per_system(preset):
    """Image 0 has one positive of 8 priors, image 1 none; there every second prior is predicted as an object."""
    priors = torch.tensor([[0, i / 8, 1, (i + 1) / 8] for i in range(8)])
    loc, logits = torch.zeros(2, 8, 4), torch.zeros(2, 8, 2)
    loc[0, 0, 1] = 0.5  # smooth L1 of 0.5 is 0.125
    logits[1, ::2, 1] = 2
    boxes, labels = (
        [priors[:1], torch.zeros(0, 4)],
        [torch.ones(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)],
    )
    losses = MultiBoxLoss(PRESETS[preset])(loc, logits, priors, boxes, labels)
    unsure, wrong = math.log(2), math.log(1 + math.exp(2))
    expected = {
        "nvidia": (0.125 / 2, 4 * unsure / 2),  # by the image's positives, then the mean over images
        "balancap": (0.125 / 2, (unsure + 3 * wrong) / 2),  # hardest of the batch, by its size
    }.get(preset, (0.125, 4 * unsure))  # 1 positive and 3 negatives of image 0, by the positives
    assert losses["loc"].item() == pytest.approx(expected[0], rel=1e-6)
    assert losses["cls"].item() == pytest.approx(expected[1], rel=1e-6)


def test_head_rows_are_cell_major():
    head = SSDHead((1, 1), (4, 6), 3, conv_predictor, xavier_init)
    for part, columns in ((head.classification_head, 3), (head.regression_head, 4)):
        for level, boxes in enumerate((4, 6)):
            torch.nn.init.zeros_(part.module_list[level].weight)
            part.module_list[level].bias.data = torch.arange(boxes * columns) + 100.0 * level
    loc, logits = head([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 1)])
    assert logits.shape == (1, 2 * 3 * 4 + 6, 3) and loc.shape == (1, 30, 4)
    # channel a * C + k is class k of box a, as in amdegroot, Caffe, lufficc, qfgaohao and torchvision
    assert logits[0, 1].tolist() == [3, 4, 5] and logits[0, 4].tolist() == [0, 1, 2]
    assert logits[0, 24 + 5].tolist() == [115, 116, 117] and loc[0, 24 + 5].tolist() == [120, 121, 122, 123]


@pytest.mark.parametrize(
    ("preset", "family", "expected"),
    [
        ("caffe", "vgg", (-54, -17, 77)),  # blue - 104, green - 117, red - 123
        ("amdegroot", "vgg", (77, -17, -54)),
        ("qfgaohao", "vgg", (77, -17, -54)),
        ("lufficc", "vgg", (77, -17, -54)),
        ("lufficc", "mobilenet_v2", (77, -17, -54)),
        ("balancap", "vgg", (77, -17, -54)),
        ("torchvision", "vgg", (77.00075, -16.9991, -53.9992)),
        ("nvidia", "resnet", ((200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225)),
        ("qfgaohao", "mobilenet_v2", (73 / 128, -27 / 128, -77 / 128)),
        ("torchvision", "mobilenet_v3", (145 / 255, -55 / 255, -155 / 255)),
    ],
)
def test_input_normalization_per_system(preset, family, expected):
    rules = get_preset(preset, family, {"prior_sizes": "geometric", "steps": None})
    model = build_model("ssd_tiny", 2, preset=rules, image_size=64)
    image = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1)  # red, green, blue
    torch.testing.assert_close(model.normalize(image).flatten(), rows(*expected), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("preset", "score", "nms", "candidates", "max_detections"),
    [
        ("amdegroot", 0.01, 0.45, 200, 200),
        ("balancap", 0.01, 0.45, 400, 800),  # no limit over the two classes of objects
        ("caffe", 0.01, 0.45, 400, 200),
        ("lufficc", 0.01, 0.45, None, 100),
        ("nvidia", 0.05, 0.5, 200, 200),
        ("qfgaohao", 0.01, 0.45, 200, 400),
        ("torchvision", 0.01, 0.45, 400, 200),
    ],
)
def test_post_processing_per_system(preset, score, nms, candidates, max_detections):
    rules = PRESETS[preset]
    assert (rules.score_threshold, rules.nms_iou_threshold, rules.candidates_per_class) == (score, nms, candidates)
    rules = rules.replace(prior_sizes="geometric", steps=None, nms_iou_threshold=0.5)
    model = build_model("ssd_tiny", 3, preset=rules, image_size=64)
    model.priors = torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.25], [0.5, 0.5, 1.5, 1]])  # IoU of the first two: 0.5
    found = model.detect(torch.zeros(1, 3, 4), torch.tensor([[[0.0, 5, 0], [0, 4, 0], [0, 3, 0]]]))
    assert found.boxes.shape == (1, max_detections, 4)
    ones = found.labels[0] == 1
    assert ones.sum() == (2 if preset == "nvidia" else 3)  # at the threshold NVIDIA's suppresses
    assert found.boxes[0, ones].max() == (1 if preset == "torchvision" else 1.5)  # torchvision's alone cuts boxes
