"""What `ssd data check` does: every image decoded, every box judged, splits compared, priors held against objects."""

from ssd.data_check.report import CheckReport, check_data

__all__ = ["CheckReport", "check_data"]
