"""Tests the emulator itself: correct kernels run, and it detects each planted bug and names its line."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pytest

from tests.emu.build import HERE, VARIANTS, build_programs
from tests.emu.schedules import SCHEDULES, environment

pytestmark = pytest.mark.slow

SOURCES = {name: (HERE / "kernels" / f"{name}.cu").read_text() for name in ("planted", "planted_global")}


def run(program: Path, *arguments: str, seed: int = 1, poison: str | None = None) -> tuple[int, str]:
    chosen = environment(seed, poison) if poison else {"SSD_OPS_EMU_SEED": str(seed)}
    done = subprocess.run(
        [str(program), *arguments], env={**os.environ, **chosen}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@lru_cache(maxsize=1)
def programs() -> dict[tuple[str, str], Path]:
    return build_programs("samples", *SOURCES)


def line_of(text: str, source: str = "planted") -> str:
    """Returns `planted.cu:N` of the only line of the source that holds `text`."""
    numbers = [i for i, line in enumerate(SOURCES[source].splitlines(), 1) if text in line]
    assert len(numbers) == 1, (text, numbers)
    return f"{source}.cu:{numbers[0]}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_correct_kernels_run_under_every_schedule(variant: str) -> None:
    program = programs()["samples", variant]
    for seed, poison in (*SCHEDULES, *((seed, "ffffffff") for seed in range(10, 20))):
        status, text = run(program, seed=seed, poison=poison)
        assert status == 0 and "WRONG" not in text, (seed, poison, text)
        assert text.count(": right\n") == 12


# Bug, expected message, and the line (a part of its text) that the message must name.
STOPPED = [
    ("divergent_barrier", r"divergent barrier: the thread is at .*, \d+ threads wait at", "divergent: first"),
    ("divergent_barrier", r"divergent barrier: .*kernel .*block \(\d, 0, 0\)", "divergent: second"),
    ("early_exit", r"(ended, but \d+ threads wait at a barrier|at .*, but 1 threads of the block have ended)", None),
    ("waiting_elsewhere", r"can go on.*32 threads wait at the barrier at", "2 == 0) __syncthreads"),
    (
        "waiting_elsewhere",
        r"16 threads of warp 1 wait in __shfl_sync with mask 0xffffffff at",
        "__shfl_sync(kFullMask,",
    ),
    ("mask_of_ended_lanes", r"20 threads of warp 0 wait in __ballot_sync.*12 threads have ended", "__ballot_sync("),
    ("mask_without_caller", r"mask 0x0000ffff leaves out lane \d+, which calls", "__any_sync(0x0000ffffu, 1)"),
    ("different_masks", r"no thread of the block can go on.*with mask 0x7fffffff", "__shfl_xor_sync(mask, 1, 1)"),
]


@pytest.mark.parametrize(("bug", "message", "line"), STOPPED)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_divergent_barriers_and_collectives_abort(bug: str, message: str, line: str | None, seed: int) -> None:
    status, text = run(programs()["planted", "plain"], bug, seed=seed)
    assert status == -6, text
    assert re.search(message, text, re.DOTALL), text
    assert f"{bug}_kernel" in text and "block (" in text, text
    assert line is None or line_of(line) in text, text


CHECKED = [
    ("dropped_barrier", "race in shared memory: ", "out[threadIdx.x] = s[(threadIdx.x + 64) % 128]"),
    ("dropped_barrier", "race in shared memory: ", "s[threadIdx.x] = threadIdx.x + 1;"),
    ("dropped_syncwarp", "race in shared memory: ", "s[threadIdx.x] = s[(threadIdx.x + 1) % 32]"),
    ("atomic_and_plain", "race in shared memory: ", "out[0] = total"),
    ("unwritten_static", "read of shared memory that nothing wrote at ", "out[threadIdx.x] = s[127 - threadIdx.x]"),
    ("unwritten_dynamic", "read of shared memory that nothing wrote at ", "fmaxf(s[0], s[1])"),
    ("leftover", "read of shared memory that nothing wrote at ", "out[blockIdx.x] = s;"),
]


@pytest.mark.parametrize(("bug", "message", "line"), CHECKED)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_checked_build_detects_races_and_uninitialized_reads(bug: str, message: str, line: str, seed: int) -> None:
    status, text = run(programs()["planted", "checked"], bug, seed=seed)
    assert status == -6 and message in text and line_of(line) in text and f"{bug}_kernel" in text, text


# Bug, whose access is not ordered, and the line of one of the two.
GLOBAL = [
    ("within_block", "another thread of the block", "out[128] += out[127 - threadIdx.x]"),
    ("no_fence", "another block", "out[200] += out[b]"),
    ("no_release", "another block", "out[200] += out[b]"),
    ("no_acquire", "another block", "out[200] += out[b]"),
    ("late_read", "another block", "out[0] = 1;"),
    ("atomic_and_load", "another block", "atomicAdd(&out[0], 1)"),
    ("early_read", "an earlier kernel", "const int value = x[threadIdx.x]"),
    ("early_write", "an earlier kernel", "x[threadIdx.x] = 1;  // the previous kernel may not have read it"),
]


@pytest.mark.parametrize(("bug", "whose", "line"), GLOBAL)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_checked_build_detects_races_in_global_memory(bug: str, whose: str, line: str, seed: int) -> None:
    status, text = run(programs()["planted_global", "checked"], bug, seed=seed)
    assert status == -6 and "race in global memory: " in text and f" of {whose} at " in text, text
    assert line_of(line, "planted_global") in text, text


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fences_order_blocks_and_every_thread_waits_for_the_previous_kernel(seed: int) -> None:
    program = programs()["planted_global", "checked"]
    assert run(program, "correct", seed=seed) == (0, "cudaSuccess\n")
    status, text = run(program, "some_wait", seed=seed)
    assert status == -6 and "the thread ended without wait_for_previous_kernel()" in text, text


SANITIZED = [
    ("static_overrun", r"AddressSanitizer: global-buffer-overflow.*global variable 's'"),
    ("dynamic_overrun", r"AddressSanitizer: use-after-poison"),
    ("global_overrun", r"AddressSanitizer: heap-buffer-overflow"),
    ("local_overrun", r"AddressSanitizer: stack-buffer-overflow.*'local'"),
    ("misaligned", r"runtime error: .*misaligned address .* 'const struct float4', which requires 16 byte alignment"),
    ("overflow", r"runtime error: signed integer overflow"),
]


@pytest.mark.parametrize(("bug", "message"), SANITIZED)
def test_sanitizers_detect_invalid_accesses(bug: str, message: str) -> None:
    status, text = run(programs()["planted", "sanitized"], bug)
    assert status not in (0, 2) and re.search(message, text, re.DOTALL), text
    assert "planted.cu:" in text


@pytest.mark.parametrize(
    "bug",
    ["dropped_barrier", "dropped_syncwarp", "shuffle_from_absent", "unwritten_static", "unwritten_dynamic", "leftover",
     "order_of_threads", "order_of_blocks", "atomic_and_plain"],
)  # fmt: skip
def test_schedules_change_results_that_depend_on_order(bug: str) -> None:
    program = programs()["planted", "plain"]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda s: run(program, bug, seed=s[0], poison=s[1]), SCHEDULES))
    assert all(status == 0 for status, _ in results), results
    assert len({text for _, text in results}) > 1


def test_schedule_is_reproducible() -> None:
    program = programs()["planted", "plain"]
    for seed in (0, 1, 2):
        assert run(program, "order_of_threads", seed=seed) == run(program, "order_of_threads", seed=seed)


def test_shared_memory_without_red_zones_raises() -> None:
    with pytest.raises(RuntimeError, match=r"anonymous namespace:\n.*linked_kernel<int>\(int\*\)::s"):
        build_programs("linked")
