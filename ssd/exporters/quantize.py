"""int8: static quantization of an exported ONNX file with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ssd.exporters.network import INPUT


def quantize(source: Path, target: Path, images: Iterable[Tensor]) -> int:
    """Quantizes the convolutions of an ONNX file: weights per channel, activations by the mean range of images.

    Everything else, post-processing included, stays float32.

    Args:
        source: File of `export_onnx`.
        target: Output file.
        images: [3, S, S] each, in 0..1, like those that the program will get.

    Returns:
        Number of images used.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, images: Iterator[Tensor]) -> None:
            self.images, self.count = images, 0

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            if image is None:
                return None
            self.count += 1
            return {INPUT: image[None].numpy()}

    reader = Reader(iter(images))
    quantize_static(
        str(source),
        str(target),
        reader,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        calibrate_method=CalibrationMethod.MinMax,
        # Means of the minima and maxima of the images: an outlier would set their extremes.
        extra_options={"CalibMovingAverage": True},
    )
    metadata = {entry.key: entry.value for entry in onnx.load(str(source)).metadata_props}
    model = onnx.load(str(target))
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, str(target))
    return reader.count
