"""Layers of torchvision's networks with the names of their weights, without the import of torchvision.

That import takes nearly as long as torch's own: with torchvision's other models it imports torch._dynamo.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class Conv2dNormActivation(nn.Sequential):
    """A convolution, a normalization and an activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the kernel.
        stride: Stride.
        padding: Zeros on each side; None keeps the size at stride 1.
        groups: Groups of the convolution.
        norm_layer: Makes the normalization; None: the convolution has a bias instead.
        activation_layer: Class of the activation, which works in place; None: no activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        norm_layer: Norm | None = nn.BatchNorm2d,
        activation_layer: Callable[..., nn.Module] | None = nn.ReLU,
    ) -> None:
        padding = (kernel_size - 1) // 2 if padding is None else padding
        bias = norm_layer is None
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)
        layers: list[nn.Module] = [conv]
        if norm_layer is not None:
            layers.append(norm_layer(out_channels))
        if activation_layer is not None:
            layers.append(activation_layer(inplace=True))
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activations."""
        x = with_second_column(x, self[0])
        for layer in self:
            x = layer(x)
        return x


def with_second_column(x: Tensor, conv: nn.Module) -> Tensor:
    """Returns the input of a convolution, with a column of zeros if that is depthwise, strided and has a single column.

    The output is the same. On a CPU, oneDNN (torch 2.11 to 2.14 at least) leaves parts of the gradient of the weights
    uninitialized for a single column in bfloat16 and channels_last. Not for `SameConv2d`, whose padding depends on the
    size of the input: it has more columns before oneDNN sees it.
    """
    is_affected = type(conv) is nn.Conv2d and conv.groups > 1 and conv.stride[1] > 1
    return _with_second_column(x) if is_affected else x


def _with_second_column(x: Tensor) -> Tensor:
    if x.shape[-1] > 1 or x.device.type != "cpu" or not torch.is_grad_enabled():
        return x
    return F.pad(x, (0, 1))


torch.fx.wrap("_with_second_column")  # torch.fx cannot trace what depends on a shape


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a factor that two fully connected layers compute from the means of all channels.

    Args:
        input_channels: Channels of the input.
        squeeze_channels: Channels between the two layers.
        activation: Class of the activation between them.
        scale_activation: Class of the activation of the factors.
    """

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        scale_activation: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def _scale(self, input: Tensor) -> Tensor:
        # [B, C, H, W] -> [B, C, 1, 1]
        scale: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(input)))))
        return scale

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B, C, H, W] to [B, C, H, W]."""
        return self._scale(input) * input


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 to `expand_ratio` times the channels, 3x3 depthwise, 1x1 without activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; with as many as the input and stride 1, the input is added to it.
        stride: Stride of the depthwise convolution.
        expand_ratio: Width inside over that of the input, rounded to whole channels; 1 leaves out the first layer.
        norm_layer: Makes the normalizations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expand_ratio: float,
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.is_residual = stride == 1 and in_channels == out_channels
        mid = round(in_channels * expand_ratio)
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(Conv2dNormActivation(in_channels, mid, 1, norm_layer=norm_layer, activation_layer=nn.ReLU6))
        layers += [
            Conv2dNormActivation(mid, mid, 3, stride, groups=mid, norm_layer=norm_layer, activation_layer=nn.ReLU6),
            nn.Conv2d(mid, out_channels, 1, bias=False),
            norm_layer(out_channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the output of the block."""
        out: Tensor = self.conv(x)
        return x + out if self.is_residual else out


def mobilenet_v2_features(width_mult: float = 1.0, norm_layer: Norm = nn.BatchNorm2d) -> nn.Sequential:
    """Returns torchvision's `mobilenet_v2().features`, initialized as there.

    Args:
        width_mult: Width of all layers, relative to MobileNetV2's.
        norm_layer: Makes the normalizations.
    """
    channels = _divisible(32 * width_mult)
    layers: list[nn.Module] = [
        Conv2dNormActivation(3, channels, stride=2, norm_layer=norm_layer, activation_layer=nn.ReLU6)
    ]
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for ratio, width, blocks, stride in stages:
        out = _divisible(width * width_mult)
        for block in range(blocks):
            layers.append(InvertedResidual(channels, out, 1 if block else stride, ratio, norm_layer))
            channels = out
    last = _divisible(1280 * max(1.0, width_mult))
    layers.append(Conv2dNormActivation(channels, last, 1, norm_layer=norm_layer, activation_layer=nn.ReLU6))
    features = nn.Sequential(*layers)
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return features


def _divisible(width: float) -> int:
    """Returns a width as a multiple of 8, at least 8, and no more than 10% below it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


def vgg16_features() -> nn.Sequential:
    """Returns torchvision's VGG16 up to pool5, initialized as there, without creating the large classifier."""
    layers: list[nn.Module] = []
    channels = 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))
    return nn.Sequential(*layers)
