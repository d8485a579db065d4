"""The checks of `ssd doctor`: installed packages, compiled kernels, hardware, and problems with remedies."""

from ssd.diagnosis.report import Report, diagnose

__all__ = ["Report", "diagnose"]
