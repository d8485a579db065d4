"""What `ssd doctor` finds out: what is installed, what is compiled, what this machine has, and what is wrong."""

from ssd.diagnosis.report import Report, diagnose

__all__ = ["Report", "diagnose"]
