"""Programs of a trained detector for other runtimes: ONNX, torch.export, AOTInductor; their check and quantization."""

from ssd.exporters.network import describe
from ssd.exporters.onnx_file import export_onnx
from ssd.exporters.programs import export_aoti, export_pt2

__all__ = ["describe", "export_aoti", "export_onnx", "export_pt2"]
