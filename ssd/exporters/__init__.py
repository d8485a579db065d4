"""Programs of a trained detector for other runtimes: ONNX, torch.export, AOTInductor; their check and quantization."""
