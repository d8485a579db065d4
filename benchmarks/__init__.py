"""Benchmarks of the ops against torchvision on one harness; each file is a program."""
