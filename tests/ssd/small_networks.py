"""SSD on MobileNetV1 and SqueezeNet, written anew from their descriptions: state dicts in, raw outputs out.

`state` maps names to weights; networks of TensorFlow have its variables, with kernels in its order of dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Output channels and stride of MobileNetV1's separable blocks.
MOBILENET_V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
FIRE = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128), 9: (256, 48, 192), 10: (384, 48, 192),
        11: (384, 64, 256), 12: (512, 64, 256)}  # fmt: skip


def shapes_of(network: str, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of qfgaohao's networks "mb1", "mb1 lite" and "squeezenet", in network order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    def layer(name: str, inputs: int, outputs: int, lite: bool) -> None:
        if lite:
            conv(f"{name}.0", 1, inputs, 3)
            conv(f"{name}.2", inputs, outputs, 1)
        else:
            conv(name, inputs, outputs, 3)

    lite = network != "mb1"
    if network == "squeezenet":
        conv("base_net.0", 3, 64, 3)
        for i, (inputs, squeeze, expand) in FIRE.items():
            conv(f"base_net.{i}.squeeze", inputs, squeeze, 1)
            conv(f"base_net.{i}.expand1x1", squeeze, expand, 1)
            conv(f"base_net.{i}.expand3x3", squeeze, expand, 3)
        extras, widths = [(512, 256, 512), (512, 256, 512), (512, 128, 256)], [512, 512, 512, 256, 256, 256]
    else:
        conv("base_net.0.0", 3, 32, 3, bias=False)
        norm("base_net.0.1", 32)
        for i, (outputs, _) in enumerate(MOBILENET_V1, 1):
            inputs = 32 if i == 1 else MOBILENET_V1[i - 2][0]
            conv(f"base_net.{i}.0", 1, inputs, 3, bias=False)
            norm(f"base_net.{i}.1", inputs)
            conv(f"base_net.{i}.3", inputs, outputs, 1, bias=False)
            norm(f"base_net.{i}.4", outputs)
        extras, widths = [(1024, 256, 512), (512, 128, 256)], [512, 1024, 512, 256, 256, 256]
    for i, (inputs, mid, outputs) in enumerate([*extras, (256, 128, 256), (256, 128, 256)]):
        conv(f"extras.{i}.0", inputs, mid, 1)
        layer(f"extras.{i}.2", mid, outputs, lite)
    for head, columns in (("classification", classes), ("regression", 4)):
        for i, width in enumerate(widths):
            name = f"{head}_headers.{i}"
            if lite and i == 5:
                conv(name, width, 6 * columns, 1)
            else:
                layer(name, width, 6 * columns, lite)
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random weights that keep the features of all layers near one."""
    generator, state = torch.Generator().manual_seed(1), {}
    for name, shape in shapes.items():
        fan = torch.Size(shape[1:]).numel() if len(shape) == 4 else 100
        state[name] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        if name.endswith(("running_var", "moving_variance", "gamma")) or ".1.weight" in name or ".4.weight" in name:
            state[name] = torch.rand(shape, generator=generator) + 0.5
        if name.endswith("tracked"):
            state[name] = torch.tensor(1)
    return state


def run_qfgaohao(network: str, state: dict[str, Tensor], x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns (loc [B, P, 4], logits [B, P, C]) of qfgaohao's networks."""

    def conv(name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, groups=x.shape[1] // weight.shape[1])

    def norm(name: str, x: Tensor) -> Tensor:
        w, b, mean, var = (state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        return F.relu(F.batch_norm(x, mean, var, w, b))

    def layer(name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        if f"{name}.weight" in state:
            return conv(name, x, stride, padding)
        return conv(f"{name}.2", F.relu(conv(f"{name}.0", x, stride, padding)))

    features = []
    if network == "squeezenet":
        x = F.relu(conv("base_net.0", x, 2, 0))
        for i in range(2, 13):
            if i == 12:
                features.append(x)
            if i not in FIRE:
                x = F.max_pool2d(x, 3, 2)
                continue
            x = F.relu(conv(f"base_net.{i}.squeeze", x))
            x = F.relu(torch.cat([conv(f"base_net.{i}.expand{k}x{k}", x) for k in (1, 3)], dim=1))
    else:
        x = norm("base_net.0.1", conv("base_net.0.0", x, 2))
        for i, (_, stride) in enumerate(MOBILENET_V1, 1):
            x = norm(f"base_net.{i}.1", conv(f"base_net.{i}.0", x, stride))
            x = norm(f"base_net.{i}.4", conv(f"base_net.{i}.3", x))
            if i in (11, 13):
                features.append(x)
    for i in range(5 if network == "squeezenet" else 4):
        padding = 2 if network == "squeezenet" and i == 0 else 1
        x = layer(f"extras.{i}.2", F.relu(conv(f"extras.{i}.0", x)), 2, padding)
        x = F.relu(x) if network == "mb1" else x
        features.append(x)
    outputs = []
    for head, columns in (("regression", 4), ("classification", classes)):
        maps = [layer(f"{head}_headers.{i}", f).permute(0, 2, 3, 1) for i, f in enumerate(features)]
        outputs.append(torch.cat([m.reshape(len(m), -1, columns) for m in maps], dim=1))
    return outputs[0], outputs[1]


def torch_same(x: np.ndarray, kernel: np.ndarray, stride: int, depthwise: bool) -> np.ndarray:
    """A convolution [B, H, W, C] with TensorFlow's SAME padding."""
    pads = []
    for size in (x.shape[2], x.shape[1]):
        out = -(-size // stride)
        total = max((out - 1) * stride + kernel.shape[0] - size, 0)
        pads += [total // 2, total - total // 2]
    weight = torch.from_numpy(kernel).permute(*((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))
    padded = F.pad(torch.from_numpy(x).permute(0, 3, 1, 2), pads)
    out = F.conv2d(padded, weight, stride=stride, groups=x.shape[3] if depthwise else 1)
    return out.permute(0, 2, 3, 1).numpy()


def run_tensorflow(
    variables: dict[str, np.ndarray],
    x: np.ndarray,  # [B, H, W, 3]
    classes: int,
    convolve: Callable[[np.ndarray, np.ndarray, int, bool], np.ndarray] = torch_same,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (boxes [P, 4] xyxy, scores [P, C]) of ssd_mobilenet_v1 in the Object Detection API, for the first image."""

    def layer(name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        depthwise = f"{name}/depthwise_weights" in variables
        x = convolve(x, variables[f"{name}/{'depthwise_' * depthwise}weights"], stride, depthwise)
        norm = [variables[f"{name}/BatchNorm/{p}"] for p in ("gamma", "beta", "moving_mean", "moving_variance")]
        return np.clip(norm[0] * (x - norm[2]) / np.sqrt(norm[3] + 0.001) + norm[1], 0, 6).astype(np.float32)

    stem, features = "FeatureExtractor/MobilenetV1/Conv2d_", []
    x = layer(f"{stem}0", x, 2)
    for i, (_, stride) in enumerate(MOBILENET_V1, 1):
        x = layer(f"{stem}{i}_pointwise", layer(f"{stem}{i}_depthwise", x, stride))
        if i in (11, 13):
            features.append(x)
    for i, width in enumerate((512, 256, 256, 128), 2):
        x = layer(f"{stem}13_pointwise_1_Conv2d_{i}_1x1_{width // 2}", x)
        x = layer(f"{stem}13_pointwise_2_Conv2d_{i}_3x3_s2_{width}", x, 2)
        features.append(x)
    codes, logits = [], []
    for out, name, columns in ((codes, "BoxEncoding", 4), (logits, "Class", classes)):
        for i, f in enumerate(features):
            kernel, bias = (variables[f"BoxPredictor_{i}/{name}Predictor/{part}"] for part in ("weights", "biases"))
            out.append((convolve(f, kernel, 1, False) + bias)[0].reshape(-1, columns))
    scales = [0.2 + 0.75 * i / 5 for i in range(6)] + [1.0]
    anchors = []
    for k, f in enumerate(features):
        boxes = [(scales[k], ratio) for ratio in (1, 2, 1 / 2, 3, 1 / 3)] + [((scales[k] * scales[k + 1]) ** 0.5, 1)]
        boxes = boxes if k else [(0.1, 1), (0.2, 2), (0.2, 1 / 2)]
        for row in range(f.shape[1]):
            for col in range(f.shape[2]):
                center = ((row + 0.5) / f.shape[1], (col + 0.5) / f.shape[2])
                anchors += [(*center, scale / ratio**0.5, scale * ratio**0.5) for scale, ratio in boxes]
    cy, cx, h, w = np.array(anchors).T
    ty, tx, th, tw = np.concatenate(codes).T
    cy, cx, h, w = ty / 10 * h + cy, tx / 10 * w + cx, np.exp(th / 5) * h, np.exp(tw / 5) * w
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
    return boxes, 1 / (1 + np.exp(-np.concatenate(logits)))
