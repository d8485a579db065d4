"""Fixtures of the property tests: an emulator that runs each case under its own schedule, and the number of cases."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.emu.schedules import SCHEDULES, schedule
from tests.ops.conftest import Implementation
from tests.ops.properties import strategies


class Scheduled(Implementation):
    """The emulated kernels; order of threads and poison follow from the input, so failures are reproducible."""

    def __getattr__(self, function: str) -> Callable[..., Any]:
        call = super().__getattr__(function)

        def scheduled(*args: Any, **kwargs: Any) -> Any:
            seed = zlib.crc32(b"".join(_bytes((args, list(kwargs.values())))))
            with schedule(seed, SCHEDULES[seed % len(SCHEDULES)][1]):
                return call(*args, **kwargs)

        return scheduled


def _bytes(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _bytes(part)
    else:
        yield repr(value).encode()


@pytest.fixture
def impl(impl: Implementation) -> Implementation:
    """An implementation of all ops."""
    return Scheduled(impl.name) if impl.name == "emulated" else impl


@pytest.fixture
def other(impl: Implementation) -> Implementation:
    """An implementation to compare with the reference."""
    if impl.name == "reference":
        pytest.skip("it is what the others are compared with")
    return impl


@pytest.fixture(autouse=True)
def count_cases(request: pytest.FixtureRequest) -> Iterator[None]:
    """Records the number of cases that ran in the report of the test, for the summary."""
    before = strategies.judged
    yield
    request.node.user_properties.append(("property cases", strategies.judged - before))
