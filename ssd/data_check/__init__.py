"""What `ssd data check` does: decodes every image, checks every box, compares splits, matches priors with objects."""

from ssd.data_check.report import CheckReport, check_data

__all__ = ["CheckReport", "check_data"]
