"""CUDA graphs capture every batched op and its gradient; a replay on new inputs equals a fresh call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.ops.boxes import assert_all_equal
from tests.ops.cuda.calls import Call


def record(call: Call, buffers: list[Tensor]) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
    """Returns results and a function that computes them anew, in place, from what the buffers then hold.

    On a GPU that is a captured graph. On the CPU it is another call: there the test shows that nothing is kept from one
    call to the next, and that shapes do not depend on data.
    """
    if buffers[0].device.type == "cpu":
        results = call.run(*buffers)

        def again() -> None:
            for result, new in zip(results, call.run(*buffers), strict=True):
                assert result.shape == new.shape
                result.copy_(new)

        return results, again
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(2):
            call.run(*buffers)
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call.run(*buffers)
    return results, graph.replay


def test_replay_equals_a_fresh_call(call: Call, device: torch.device) -> None:
    buffers = call.inputs(0, device)
    results, replay = record(call, buffers)
    seen = []
    for seed in (1, 2, 0, 1):
        fresh = call.inputs(seed, device)
        for buffer, tensor in zip(buffers, fresh, strict=True):
            buffer.copy_(tensor)
        replay()
        assert_all_equal(results, call.run(*fresh))
        seen.append([result.clone() for result in results])
    assert_all_equal(seen[0], seen[3])
    assert not all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
