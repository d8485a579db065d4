"""State dicts as other SSD systems save them, written down from their sources: names and shapes, in network order.

Every tensor holds its own number, from 1, so that a test sees where it went.
"""

import torch

# conv1_1 to conv5_3, fc6, fc7: index in VGG's list of layers, channels in and out, kernel
VGG = [
    (0, 3, 64, 3),
    (2, 64, 64, 3),
    (5, 64, 128, 3),
    (7, 128, 128, 3),
    (10, 128, 256, 3),
    (12, 256, 256, 3),
    (14, 256, 256, 3),
    (17, 256, 512, 3),
    (19, 512, 512, 3),
    (21, 512, 512, 3),
    (24, 512, 512, 3),
    (26, 512, 512, 3),
    (28, 512, 512, 3),
    (31, 512, 1024, 3),
    (33, 1024, 1024, 1),
]
EXTRAS = [(1024, 256, 1), (256, 512, 3), (512, 128, 1), (128, 256, 3), *[(256, 128, 1), (128, 256, 3)] * 2]
CAFFE = "1_1 1_2 2_1 2_2 3_1 3_2 3_3 4_1 4_2 4_3 5_1 5_2 5_3".split()
BOXES = [4, 6, 6, 6, 4, 4]


def numbered(shapes):
    """Returns tensors of these shapes, each filled with its index."""
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items(), start=1)}


def conv(name, inputs, outputs, kernel, bias=True):
    shapes = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return {**shapes, f"{name}.bias": (outputs,)} if bias else shapes


def norm(name, channels):
    per_channel = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in per_channel}, f"{name}.num_batches_tracked": ()}


def vgg(system, classes):
    """SSD300 on VGG16: L2Norm (or its replacement), VGG, extras, class heads, box heads."""
    scale = {
        "amdegroot": "L2Norm.weight",
        "lufficc": "backbone.l2_norm.weight",
        "lufficc_v1": "l2_norm.weight",
        "qfgaohao": "source_layer_add_ons.0.scale",
        "caffe": "conv4_3_norm.weight",
        "sgrvinod": "rescale_factors",
    }[system]
    shapes = {scale: (1, 512, 1, 1) if system == "sgrvinod" else (512,)}
    stem = {
        "amdegroot": "vgg.",
        "lufficc_v1": "vgg.",
        "lufficc": "backbone.vgg.",
        "qfgaohao": "base_net.",
        "sgrvinod": "base.",
        "caffe": "",
    }
    fc = {"caffe": ["fc6", "fc7"], "sgrvinod": ["conv6", "conv7"]}
    for i, (index, inputs, outputs, kernel) in enumerate(VGG):
        layer = [*(f"conv{n}" for n in CAFFE), *fc[system]][i] if system in fc else str(index)
        shapes |= conv(stem[system] + layer, inputs, outputs, kernel)
    for i, extra in enumerate(EXTRAS):
        level, place = divmod(i, 2)
        name = {
            "amdegroot": f"extras.{i}",
            "lufficc_v1": f"extras.{i}",
            "lufficc": f"backbone.extras.{i}",
            "qfgaohao": f"extras.{level}.{2 * place}",
            "caffe": f"conv{6 + level}_{1 + place}",
            "sgrvinod": f"aux_convs.conv{8 + level}_{1 + place}",
        }[system]
        shapes |= conv(name, *extra)
    sources = {
        "caffe": "conv4_3_norm fc7 conv6_2 conv7_2 conv8_2 conv9_2".split(),
        "sgrvinod": "conv4_3 conv7 conv8_2 conv9_2 conv10_2 conv11_2".split(),
    }
    heads = {
        "amdegroot": ("conf.{}", "loc.{}"),
        "lufficc_v1": ("classification_headers.{}", "regression_headers.{}"),
        "lufficc": ("box_head.predictor.cls_headers.{}", "box_head.predictor.reg_headers.{}"),
        "qfgaohao": ("classification_headers.{}", "regression_headers.{}"),
        "caffe": ("{}_mbox_conf", "{}_mbox_loc"),
        "sgrvinod": ("pred_convs.cl_{}", "pred_convs.loc_{}"),
    }[system]
    for head, columns in zip(heads, (classes, 4), strict=True):
        for level, (inputs, boxes) in enumerate(zip((512, 1024, 512, 256, 256, 256), BOXES, strict=True)):
            shapes |= conv(head.format(sources.get(system, range(6))[level]), inputs, boxes * columns, 3)
    return numbered(shapes)


def nvidia(classes, constants=True):
    """SSD300 on ResNet-18, as NVIDIA saves it; `constants` are those of WZMIAOMIAO."""
    stem = "feature_extractor.feature_extractor"
    shapes = conv(f"{stem}.0", 3, 64, 7, bias=False) | norm(f"{stem}.1", 64)
    for layer, (inputs, width) in zip((4, 5, 6), ((64, 64), (64, 128), (128, 256)), strict=True):
        for block in (0, 1):
            name = f"{stem}.{layer}.{block}"
            shapes |= conv(f"{name}.conv1", inputs if block == 0 else width, width, 3, bias=False)
            shapes |= norm(f"{name}.bn1", width) | conv(f"{name}.conv2", width, width, 3, bias=False)
            shapes |= norm(f"{name}.bn2", width)
            if block == 0 and layer > 4:
                shapes |= conv(f"{name}.downsample.0", inputs, width, 1, bias=False) | norm(
                    f"{name}.downsample.1", width
                )
    widths = (256, 512, 512, 256, 256, 128)
    for i, mid in enumerate((256, 256, 128, 128, 128)):
        name = f"additional_blocks.{i}"
        shapes |= conv(f"{name}.0", widths[i], mid, 1, bias=False) | norm(f"{name}.1", mid)
        shapes |= conv(f"{name}.3", mid, widths[i + 1], 3, bias=False) | norm(f"{name}.4", widths[i + 1])
    for head, columns in (("conf", classes), ("loc", 4)):
        for level, boxes in enumerate(BOXES):
            shapes |= conv(f"{head}.{level}", widths[level], boxes * columns, 3)
    if constants:
        shapes |= {"compute_loss.dboxes": (1, 4, 8732), "postprocess.dboxes_xywh": (1, 8732, 4)}
    return numbered(shapes)


def mobilenet_v2(system, classes):
    """SSDlite on MobileNetV2: qfgaohao's mb2-ssd-lite or lufficc's mobilenet_v2."""
    flat = system == "qfgaohao"
    stem, extras = ("base_net", "extras") if flat else ("backbone.features", "backbone.extras")

    def block(name, inputs, hidden, outputs):
        """Expansion (unless there is none), depthwise, projection; numbered flat, or nested by convolution."""
        expand = hidden != inputs or name.startswith(extras)
        places = [0, 1, 3, 4, 6, 7] if expand else [0, 1, 3, 4]
        nested = ["0.0", "0.1", "1.0", "1.1", "2", "3"] if expand else ["0.0", "0.1", "1", "2"]
        names = [f"{name}.conv.{p}" for p in (places if flat else nested)]
        layers = [((inputs, hidden, 1), hidden)] if expand else []
        layers += [((1, hidden, 3), hidden), ((hidden, outputs, 1), outputs)]
        shapes = {}
        for i, (convolution, channels) in enumerate(layers):
            shapes |= conv(names[2 * i], *convolution, bias=False) | norm(names[2 * i + 1], channels)
        return shapes

    shapes = conv(f"{stem}.0.0", 3, 32, 3, bias=False) | norm(f"{stem}.0.1", 32)
    inputs, index = 32, 1
    for t, c, n in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(n):
            shapes |= block(f"{stem}.{index}", inputs, inputs * t, c)
            inputs, index = c, index + 1
    shapes |= conv(f"{stem}.18.0", 320, 1280, 1, bias=False) | norm(f"{stem}.18.1", 1280)
    for i, (inputs, hidden, outputs) in enumerate(((1280, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 64))):
        shapes |= block(f"{extras}.{i}", inputs, hidden, outputs)
    heads = ("classification_headers", "regression_headers")
    if not flat:
        heads = ("box_head.predictor.cls_headers", "box_head.predictor.reg_headers")
    widths = (576 if flat else 96, 1280, 512, 256, 256, 64)
    for head, columns in zip(heads, (classes, 4), strict=True):
        for level, width in enumerate(widths):
            name = f"{head}.{level}" + ("" if flat or level == 5 else ".conv")
            if level < 5:
                shapes |= conv(f"{name}.0", 1, width, 3) | norm(f"{name}.1", width)
                name += ".3"
            shapes |= conv(name, width, 6 * columns, 1)
    return numbered(shapes)
