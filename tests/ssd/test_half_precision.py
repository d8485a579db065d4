"""Tests which devices run in bfloat16 by themselves, what they then run in it, and how a user chooses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssd.engine.distributed import World
from ssd.engine.preparation import prepare
from ssd.engine.run_folder import RunFolder
from ssd.engine.step import train_step
from ssd.inference import detector as detector_module
from ssd.inference.engine import InferenceEngine
from ssd.inference.parts import Part
from ssd.models import build_model
from ssd.models.half_precision import has_native_bfloat16
from ssd.programs import eval, predict, serve
from ssd.programs.device_arguments import half_dtype
from tests.ssd.test_inference_engine import batch, tiny
from tests.ssd.test_training import SMALL

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["emulated", "native"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A CPU without and with instructions for bfloat16, whatever this one has."""
    describe_cpu(monkeypatch, native=request.param)
    return bool(request.param)


def describe_cpu(
    monkeypatch: pytest.MonkeyPatch, native: bool = True, level: str = "AVX512", onednn: bool = True
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True} if native else {"avx512_f": True})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)


def test_only_cpus_with_instructions_for_bfloat16_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for expected, options in (
        (True, {}),
        (False, {"native": False}),
        (False, {"level": "AVX2"}),
        (False, {"level": "SVE256"}),
        (False, {"onednn": False}),
    ):
        with monkeypatch.context() as patch:
            describe_cpu(patch, **options)
            assert has_native_bfloat16(CPU) == expected, options
    describe_cpu(monkeypatch)
    assert not has_native_bfloat16(torch.device("meta"))


def test_the_given_gpu_is_asked_and_not_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextlib.contextmanager
    def switched(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", switched)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == 1)
    assert has_native_bfloat16(torch.device("cuda:1"))
    assert not has_native_bfloat16(torch.device("cuda:0"))


def test_engine_runs_in_bfloat16_where_it_is_native(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    assert InferenceEngine(model).dtype == (torch.bfloat16 if native else torch.float32)
    assert InferenceEngine(model, dtype=torch.float32).dtype == torch.float32
    assert next(InferenceEngine(model, exact=True)._net.parameters()).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["half", "bfloat16", torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_types_that_no_network_runs_in_raise(dtype: Any) -> None:
    for run in (lambda: InferenceEngine(tiny(), dtype=dtype), lambda: detector_module.load("none.pt", "cpu", dtype)):
        with pytest.raises(ValueError, match=r"dtype must be one of torch\.bfloat16, .*, or None, got "):
            run()


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_bfloat16_finds_the_objects_of_float32(scores: str) -> None:
    model = tiny(scores=scores, multi_label=True)
    found, expected = (InferenceEngine(model, dtype=t).detect(batch(3)) for t in (torch.bfloat16, torch.float32))
    assert int(expected.counts.min()) > 20
    torch.testing.assert_close(found.scores[:, :20], expected.scores[:, :20], rtol=0, atol=0.02)
    assert not torch.equal(found.scores, found.scores.bfloat16().float()), "scores of bfloat16 tie in NMS"


def test_mixed_precision_on_a_cpu_has_no_scaler_and_losses_in_float32(tmp_path: Path) -> None:
    losses = []
    for amp in (False, True):
        config = replace(SMALL, amp=amp, channels_last=True, dataset="shapes", output_dir=str(tmp_path / str(amp)))
        state, loader, _ = prepare(config, World(), RunFolder.open(config))
        losses.append(train_step(config, state, next(iter(loader))))
        assert not state.scaler.is_enabled()
        assert {tensor.dtype for tensor in state.model.state_dict().values()} == {torch.float32, torch.int64}
    for name, loss in losses[1].items():
        torch.testing.assert_close(loss, losses[0][name], rtol=0.02, atol=0)


def test_half_flag_chooses_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [half_dtype(half, CPU) for half in (None, True, False)] == [None, torch.bfloat16, torch.float32]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert half_dtype(True, torch.device("cuda")) == torch.float16


@pytest.fixture
def dtypes(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtype of each engine that a detector builds."""
    made: list[torch.dtype] = []

    class Recording(InferenceEngine):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self.dtype)

    monkeypatch.setattr(detector_module, "InferenceEngine", Recording)
    return made


@pytest.mark.parametrize("flags", [[], ["--half"], ["--no-half"]])
def test_programs_run_in_the_dtype_of_their_flag(
    flags: list[str], native: bool, dtypes: list[torch.dtype], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("ssd_tiny", 5, image_size=64, width=4, levels=2)
    names = ("disc", "square", "triangle", "star")
    torch.save({"build_args": model.build_args, "classes": [*names], "model": model.state_dict()}, tmp_path / "last.pt")
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    checkpoint, half = str(tmp_path / "last.pt"), [torch.float32, torch.bfloat16]
    photo = [str(tmp_path / "photo.png"), "--output-dir", str(tmp_path / "out"), "--no-pictures"]
    predict.main([checkpoint, *photo, "--device", "cpu", *flags])
    data = ["--dataset", "shapes", "--dataset-option", "size=4", "-j", "0"]
    eval.main([checkpoint, *data, "--device", "cpu", *flags])
    monkeypatch.setattr("ssd.serve.run.run", lambda *_: None)
    serve.main([checkpoint, "--port", "0", "--device", "cpu", *flags])
    chosen, evaluated = half[flags == ["--half"] or (native and not flags)], half[flags == ["--half"]]
    assert dtypes == [chosen, evaluated, chosen]


def test_resumed_prediction_keeps_its_dtype(tmp_path: Path) -> None:
    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    torch.save(
        {"build_args": model.build_args, "classes": ["a", "b"], "model": model.state_dict()}, tmp_path / "last.pt"
    )
    names = [str(tmp_path / f"{number}.png") for number in range(2)]
    for name in names:
        Image.new("RGB", (40, 30)).save(name)
    argv = [str(tmp_path / "last.pt"), *names, "--output-dir", str(tmp_path / "out"), "--no-pictures", "--half"]
    settings = {name: None for name in ("score_threshold", "classes", "nms_threshold", "max_detections", "tile")}
    settings |= {"checkpoint": argv[0], "half": True}
    Part(tmp_path / "out", 0, 1, settings).close()
    with pytest.raises(SystemExit, match="has results with half True, not False"):
        predict.main([*argv, "--resume", "--no-half"])
    predict.main([*argv, "--resume"])
