"""Ops run on the current stream, on two at once, on the device of their inputs, without synchronizing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import ssd_ops
from tests.ops.boxes import assert_all_equal, random_boxes
from tests.ops.cuda.calls import CALLS, DROP_INS, Call

pytestmark = pytest.mark.cuda
every_call = pytest.mark.parametrize("call", [*CALLS, *DROP_INS], ids=lambda call: call.name)


@contextmanager
def no_synchronization() -> Iterator[None]:
    """Makes every synchronization with the device an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_call
def test_two_streams_at_once(call: Call, gpu: torch.device) -> None:
    """Inputs arrive on each stream after a delay, so that an op on another stream than its own would miss them."""
    inputs = [call.inputs(seed, gpu) for seed in (1, 2)]
    expected = [call.run(*tensors) for tensors in inputs]
    buffers = [[torch.zeros_like(tensor) for tensor in tensors] for tensors in inputs]
    streams = [torch.cuda.Stream(gpu) for _ in range(2)]
    torch.cuda.synchronize()
    found: list[list[tuple[torch.Tensor, ...]]] = [[], []]
    for turn in range(8):
        for k, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                if turn == 0:
                    torch.cuda._sleep(20_000_000)  # some 10 ms
                    for buffer, tensor in zip(buffers[k], inputs[k], strict=True):
                        buffer.copy_(tensor)
                found[k].append(call.run(*buffers[k]))
    torch.cuda.synchronize()
    for results, wanted in zip(found, expected, strict=True):
        for result in results:
            assert_all_equal(result, wanted)


@every_call
def test_two_host_threads(call: Call, gpu: torch.device) -> None:
    inputs = [call.inputs(seed, gpu) for seed in (1, 2)]
    expected = [call.run(*tensors) for tensors in inputs]
    torch.cuda.synchronize()
    found: list[list[tuple[torch.Tensor, ...]]] = [[], []]

    def work(k: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream(gpu)):
            found[k] = [call.run(*inputs[k]) for _ in range(8)]
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(found, expected, strict=True):
        assert len(results) == 8
        for result in results:
            assert_all_equal(result, wanted)


@every_call
def test_other_device(call: Call, gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    other = torch.device("cuda", 1)
    expected = call.run(*call.inputs(1, gpu))
    assert torch.cuda.current_device() == 0
    found = call.run(*call.inputs(1, other))
    assert all(result.device == other for result in found) and torch.cuda.current_device() == 0
    assert_all_equal([result.cpu() for result in found], [result.cpu() for result in expected])


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_ops_do_not_synchronize(call: Call, gpu: torch.device) -> None:
    inputs = call.inputs(1, gpu)
    expected = call.run(*inputs)
    with no_synchronization():
        found = call.run(*inputs)
    assert_all_equal(found, expected)


def test_lists_do_not_synchronize(gpu: torch.device) -> None:
    boxes = [random_boxes(n, seed=n).to(gpu) for n in (3, 0, 7)]
    labels = [torch.ones(len(b), dtype=torch.int64, device=gpu) for b in boxes]
    priors = random_boxes(200).to(gpu)
    expected = ssd_ops.match_priors(boxes, labels, priors)
    with no_synchronization():
        found = ssd_ops.match_priors(boxes, labels, priors)
    assert_all_equal(found, expected)
