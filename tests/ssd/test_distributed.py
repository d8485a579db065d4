"""Tests that training on several processes equals training on one process with all images."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.config.resume_settings import record
from ssd.data import Batch, DataError
from ssd.engine.distributed import World, exit_with_error, synchronize_batch_norm
from ssd.engine.elastic import after_restart, announce_checkpoint
from ssd.engine.loop import run
from ssd.engine.step import backward, make_state
from ssd.models import build_model
from ssd.reports.csv_log import CsvLog
from tests.processes import run_processes
from tests.ssd.test_training import SMALL

RULES: dict[str, Any] = {"width": 4, "levels": 2, "rule": "greedy", "min_negatives": 5, "class_target": "iou"}
OBJECTS = ([1, 0, 3, 9], [0, 0, 2, 1])  # objects of each image; the first process has none in the second case


def batch_of(counts: list[int]) -> Batch:
    """Returns images with the given numbers of objects; image i is the same in every batch."""
    images, boxes, labels = [], [], []
    for i, count in enumerate(counts):
        stream = torch.Generator().manual_seed(100 * i + count)
        images.append(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=stream))
        corner = torch.rand(count, 2, generator=stream) * 0.6
        boxes.append(torch.cat([corner, corner + 0.1 + torch.rand(count, 2, generator=stream) * 0.3], dim=1))
        labels.append(torch.randint(1, 3, (count,), generator=stream))
    offsets = torch.tensor([0, *counts]).cumsum(0)
    ignore = torch.zeros(int(offsets[-1]), dtype=torch.bool)
    sizes = torch.full((len(counts), 2), 64)
    return Batch(
        torch.stack(images), torch.cat(boxes), torch.cat(labels), ignore, offsets, list(range(len(counts))), sizes
    )


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    first, last = int(batch.offsets[start]), int(batch.offsets[stop])
    return Batch(
        batch.images[start:stop],
        batch.gt_boxes[first:last],
        batch.gt_labels[first:last],
        batch.ignore[first:last],
        batch.offsets[start : stop + 1] - first,
        batch.image_ids[start:stop],
        batch.sizes[start:stop],
    )


def gradients(
    world: World, counts: list[int], part: slice, normalizer: str, parts: int = 1
) -> tuple[dict[str, Any], float]:
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 3, image_size=64, normalizer=normalizer, **RULES).double().eval()
    if parts > 1:  # each forward pass communicates, as with SyncBatchNorm
        next(model.children()).register_forward_pre_hook(lambda *_: (world.sum(torch.ones(())), None)[1])
    state = make_state(TrainConfig(ema_decay=0.0), model, 1, world)
    losses = backward(
        TrainConfig(accumulate=parts, sync_bn=parts > 1), state, part_of(batch_of(counts), part.start, part.stop)
    )
    mean = world.sum(losses["loc"] + losses["cls"]) / world.size
    return {name: p.grad for name, p in model.named_parameters()}, float(mean)


def save_gradients(folder: Path) -> None:
    world = World.join("cpu")
    part = slice(2 * world.rank, 2 * world.rank + 2)
    found = {
        (i, n): gradients(world, c, part, n) for i, c in enumerate(OBJECTS) for n in ("batch", "image", "batch_size")
    }
    uneven = slice(0, 3) if world.is_first else slice(3, 4)  # two parts, and one
    found[0, "batch_size"] = gradients(world, OBJECTS[0], uneven, "batch_size", parts=2)
    torch.save(found, folder / f"gradients{world.rank}.pt")
    world.leave()


def test_two_process_gradients_equal_single_process(tmp_path: Path) -> None:
    assert [p.code for p in run_processes(tmp_path, save_gradients, tmp_path)] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"gradients{rank}.pt")
        for (case, normalizer), (got, loss) in found.items():
            wanted, whole = gradients(World(), OBJECTS[case], slice(0, 4), normalizer)
            assert loss == pytest.approx(whole, rel=1e-9)
            assert any(bool(g.abs().max() > 1e-4) for g in wanted.values())
            for name in wanted:  # float64; sums over images in another order
                torch.testing.assert_close(got[name], wanted[name], rtol=1e-8, atol=1e-12)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "whole"
    ended = run_processes(path.parent / "said", run, replace(SMALL, batch_size=4, output_dir=str(path)))
    assert [p.code for p in ended] == [0, 0], ended
    assert "2 processes, 4 images per step each" in ended[0].out
    assert ended[1].out == ""
    return path


def test_epoch_is_split_between_two_processes(pair: Path) -> None:
    rows = CsvLog(pair / "train.csv").rows()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]  # 24 images, 2 x 4 a step


def run_and_count_ddp(config: TrainConfig) -> None:
    """Prints how many DDP modules exist when the process group is destroyed."""
    import torch.distributed as dist

    destroy = dist.destroy_process_group

    def counting() -> None:
        print("alive:", sum(type(x) is nn.parallel.DistributedDataParallel for x in gc.get_objects()))
        destroy()

    dist.destroy_process_group = counting
    run(config)


def test_process_group_is_destroyed_after_ddp(tmp_path: Path) -> None:
    """Else DDP destroys it, with Python's lock: one of some ten runs hung at its end."""
    ended = run_processes(tmp_path, run_and_count_ddp, replace(SMALL, epochs=1, output_dir=str(tmp_path / "run")))
    assert ended[0].out.splitlines()[-1] == "alive: 0"
    assert [p.code for p in ended] == [0, 0], ended


def killed_in_step(config: TrainConfig) -> None:
    """Trains until the second process is killed in step 5 of 6, in the second epoch."""
    import ssd.engine.loop

    step = ssd.engine.loop.train_step

    def dying(config: TrainConfig, state: Any, batch: Batch) -> Any:
        if state.world.rank == 1 and state.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(config, state, batch)

    ssd.engine.loop.train_step = dying  # type: ignore[assignment]
    run(config)


def test_run_restarted_by_torchrun_equals_uninterrupted(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, batch_size=4, output_dir=str(tmp_path / "run"))
    # torchrun's own store survives the processes, with their addresses
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr("tests.processes.free_port", lambda: store.port)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert any(p.code for p in run_processes(tmp_path, killed_in_step, config))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ended = run_processes(tmp_path, run, config)
    assert [p.code for p in ended] == [0, 0] and f"restarted by torchrun: resuming {tmp_path / 'run'}" in ended[0].out
    one, two = (torch.load(path / "last.pt", weights_only=True) for path in (pair, tmp_path / "run"))
    assert one["step"] == two["step"] == 6 and one["best"] == two["best"] and len(one["random"]) == 2
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])


@pytest.fixture
def restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Returns an empty working directory of a process that torchrun has restarted."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    yield tmp_path


def earlier_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    record(replace(SMALL, lr=0.5), folder)
    (folder / "last.pt").touch()
    return folder


@pytest.mark.parametrize("folder", ["runs/ssd_tiny-shapes-1", "given"])
def test_restart_resumes_only_the_run_of_the_same_launch(restarted: Path, folder: str) -> None:
    earlier_run(Path(folder))
    config = replace(SMALL, output_dir=folder if folder == "given" else None)
    assert after_restart(config) is config  # a run of an earlier command
    announce_checkpoint(Path(folder))
    resumed = after_restart(config)
    assert resumed.resume == str(restarted / folder) and resumed.lr == 0.5 and resumed.output_dir == config.output_dir
    other = replace(SMALL, output_dir="other")
    assert after_restart(other) is other


def test_restart_of_a_resumed_run_resumes_where_it_was(restarted: Path) -> None:
    config = replace(SMALL, resume="first/best.pt", output_dir="second")
    earlier_run(Path("second"))
    assert after_restart(config) is config  # no checkpoint of this launch: from --resume again
    announce_checkpoint(Path("second"))
    assert after_restart(config).resume == str(restarted / "second")
    resumed = replace(SMALL, resume="second/best.pt")
    assert after_restart(resumed).resume == str(restarted / "second")


def test_two_process_evaluation_equals_single_process(pair: Path, tmp_path: Path) -> None:
    run(replace(SMALL, batch_size=4, output_dir=str(tmp_path), resume=str(pair), test_only=True))
    assert CsvLog(tmp_path / "eval.csv").rows()[-1] == CsvLog(pair / "eval.csv").rows()[-1]


def command(*flags: str) -> None:
    from ssd.train import main

    small = ["--image-size", "64", "--dataset-option", "size=16", "--dataset-option", "image_size=64"]
    main([*small, "--model-option", "width=4", "--model-option", "levels=2", "--device", "cpu", "-j", "0", *flags])


def test_non_finite_loss_is_reported_once_with_step_and_images(tmp_path: Path) -> None:
    flags = ["--lr", "1e30", "--clip-grad-norm", "0", "--warmup-iters", "0", "-b", "2", "--opt", "sgd"]
    ended = run_processes(tmp_path, command, *flags, "--output-dir", str(tmp_path / "run"))
    assert [p.code for p in ended] == [1, 1]
    assert "error: the loss of process" in ended[0].err and "is not finite at step" in ended[0].err
    assert "image ids [" in ended[0].err and "Common causes: the learning rate is too high" in ended[0].err
    assert "Traceback" not in ended[0].err + ended[1].err and "error" not in ended[1].err


def test_error_on_all_processes_is_reported_once(tmp_path: Path) -> None:
    ended = run_processes(tmp_path, command, "--model-option", "width=0")
    assert [p.code for p in ended] == [1, 1]
    assert "width must be at least 1, got 0" in ended[0].err and "error" not in ended[1].err
    ended = run_processes(tmp_path, command, "--epochs", "0")
    assert [p.code for p in ended] == [2, 2]
    assert "--epochs must be at least 1" in ended[0].err and "error" not in ended[1].err


def fail_on_one() -> None:
    world = World.join("cpu")
    try:
        if world.rank == 1:
            raise DataError("image 7 is broken")
        world.sum(torch.zeros(1))
    except DataError as error:
        exit_with_error(error)


def test_error_on_one_process_ends_all_and_names_rank(tmp_path: Path) -> None:
    ended = run_processes(tmp_path, fail_on_one)
    assert all(p.code for p in ended)
    assert "error in process 1 of 2: image 7 is broken" in ended[1].err


def test_out_of_memory_error_suggests_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ssd.engine.loop

    def failing(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(ssd.engine.loop, "train_epoch", failing)
    with pytest.raises(SystemExit, match="use fewer --workers"):
        command("--output-dir", str(tmp_path / "run"))


def test_sync_bn_converts_trainable_batch_norm_only() -> None:
    from ssd.models.frozen import freeze_batch_norm

    frozen, learning = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
    freeze_batch_norm(frozen)
    both = nn.Sequential(frozen, learning)
    synchronize_batch_norm(both, torch.device("cuda"))
    assert isinstance(learning[1], nn.SyncBatchNorm) and not isinstance(frozen[1], nn.SyncBatchNorm)
    with pytest.raises(ConfigError, match="--sync-bn needs GPUs"):
        synchronize_batch_norm(both, torch.device("cpu"))
