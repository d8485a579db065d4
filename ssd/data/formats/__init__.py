"""Readers of annotation formats, and where each of them keeps its files."""
