"""Options as text on a command line. Standard library only."""

from __future__ import annotations

import json
from typing import Any


def option_text(value: Any) -> str:
    """Returns the VALUE of a flag KEY=VALUE that `ssd.programs.train_arguments.key_value` reads as this value."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return value
    return json.dumps(value)
