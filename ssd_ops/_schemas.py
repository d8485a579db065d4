"""The schemas of all ops, parsed once from `schemas.def`, the list that the C++ library is compiled with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

PATH = Path(__file__).with_name("schemas.def")


@dataclass(frozen=True)
class Schema:
    """Name, arguments and defaults of an op."""

    text: str
    name: str
    arguments: tuple[str, ...]
    defaults: tuple[Any, ...]
    """Those of the last arguments."""

    def complete(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns all arguments of a call; the dispatcher omits trailing ones that equal their defaults."""
        missing = len(self.arguments) - len(args)
        return args if missing == 0 else (*args, *self.defaults[len(self.defaults) - missing :])

    def by_name(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """Returns all arguments of a call by their names."""
        return dict(zip(self.arguments, self.complete(args), strict=True))


def _parsed(text: str) -> Schema:
    schema = torch._C.parse_schema(f"ssd_ops::{text}")
    names = tuple(argument.name for argument in schema.arguments)
    defaults = tuple(a.default_value for a in schema.arguments if a.has_default_value())
    return Schema(text, text.partition("(")[0], names, defaults)


SCHEMAS: dict[str, Schema] = {
    schema.name: schema
    for schema in map(_parsed, re.findall(r'^"(.*)",$', PATH.read_text(encoding="utf-8"), flags=re.MULTILINE))
}
"""By name."""


@cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names of a function's parameters."""
    return tuple(inspect.signature(function).parameters)


def call_by_name(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Calls a function with those of the arguments that it has parameters for."""
    return function(**{name: arguments[name] for name in parameters(function) if name in arguments})
