"""Inference with a trained model: loading, detection, drawing and output formats."""
