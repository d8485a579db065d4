"""Everything that the command lines of README and docs name, small: data sets, runs, checkpoints, images, a video."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
from torchvision.models.detection import SSD300_VGG16_Weights, SSDLite320_MobileNet_V3_Large_Weights

import ssd
from ssd.inference.video_writer import VideoWriter
from ssd.weight_files.protobuf_files import _message_class
from tests.processes import run_python
from tests.ssd.small_folders import save_image, voc_object, write_voc
from tests.ssd.test_recipes import write_coco_split
from tests.ssd.test_small_networks import tensorflow_variables

ROOT = Path(__file__).resolve().parent.parent
# Without a GPU, in files of the folder, and with weights of torchvision where torch.hub looks for those it has downloaded.
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
SHORT_TRAINING = "--iterations 1 --batch-size 2 --workers 0 --pictures 1 --data-check off".split()


def write_data(root: Path) -> None:
    objects = [voc_object("cat"), voc_object("dog", (5, 5, 50, 35))]
    for name in ("FOLDER", "bccd"):
        write_voc(root / name, {"val0": objects}, "val", size=(72, 48))  # of other pixels than those for training
        write_voc(root / name, {f"train{i}": objects for i in range(4)})
    twenty = [voc_object(f"class{i}", (5 + i, 5, 30 + i, 35)) for i in range(20)]  # as many as VOC has
    for year, splits in (("2007", ("trainval", "test")), ("2012", ("trainval",))):
        for split in splits:
            write_voc(root / "VOCdevkit" / f"VOC{year}", {f"{year}_{split}_{i}": twenty for i in range(2)}, split)
    for split in ("train", "val"):
        write_coco_split(root / "coco", split, 4)


def write_sources(root: Path) -> None:
    """Images, a video and tar files to detect in."""
    for name in ("photos/a.jpg", "photos/b.jpg", "photo.jpg"):
        save_image(root / name, (80, 60))
    save_image(root / "aerial.tif", (900, 700))
    video = VideoWriter(root / "clip.mp4")
    for number in range(4):
        video.write(np.full((48, 64, 3), 40 * number, np.uint8), number / 10)
    video.close()
    (root / "shards").mkdir()
    for number in range(2):
        with tarfile.open(root / f"shards/{number}.tar", "w") as tar:
            content = (root / "photo.jpg").read_bytes()
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_weights(root: Path) -> None:
    """Random weights under the names of published files."""
    cache = root / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    vgg = ssd.build_model("ssd300_vgg16", 21, preset="amdegroot")
    torch.save(ssd.export_weights(vgg, "amdegroot"), root / "ssd300_mAP_77.43_v2.pth")
    vgg = ssd.build_model("ssd300_vgg16", 91)
    lite = ssd.build_model("ssdlite320_mobilenet_v3_large", 91, reduced_tail=True)
    for model, weights in (
        (vgg, SSD300_VGG16_Weights.COCO_V1),
        (lite, SSDLite320_MobileNet_V3_Large_Weights.COCO_V1),
    ):
        torch.save(ssd.export_weights(model, "torchvision"), cache / weights.url.rsplit("/", 1)[-1])
    state = mobilenet_v2().state_dict()
    torch.save(state, cache / MobileNet_V2_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1])
    features = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save(
        {name: value for name, value in features.items() if name.startswith("features.")},
        root / "mobilenet_v2_imagenet_features_fp16.pth",
    )
    variables = tensorflow_variables()
    np.savez(root / "weights.npz", **variables)
    graph = _message_class("tensorflow")()
    for name, value in variables.items():
        node = graph.nodes.add(name=name, op="Const")
        attribute = node.attributes.add(key="value")
        attribute.value.tensor.dtype = 1
        for size in value.shape:
            attribute.value.tensor.shape.dim.add(size=size)
        attribute.value.tensor.content = value.astype("<f4").tobytes()
    (root / "frozen_inference_graph.pb").write_bytes(graph.SerializeToString())


def write_runs(root: Path) -> None:
    """A run on FOLDER, stopped after its first step, under each name."""
    options = ["--model", "ssd_tiny", "--image-size", "64", "--output-dir", "runs/NAME", *SHORT_TRAINING]
    done = run_python(
        "-m", "ssd", "train", "--data-path", "FOLDER", *options, folder=root, environment=environment(root)
    )
    assert done.returncode == 0, done.stderr
    for name in ("a", "b", "ssd_tiny-shapes-1"):
        shutil.copytree(root / "runs/NAME", root / "runs" / name)


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, **HIDDEN, "TORCH_HOME": str(root / "torch"), "SSD_DATA_PATH": ""}


def write_all(root: Path) -> Path:
    for name in ("ssd", "ssd_ops"):
        (root / name).symlink_to(ROOT / name)
    (root / "script.py").write_text("import torchvision; print(torchvision.ops.nms)\n")
    write_data(root)
    write_sources(root)
    write_weights(root)
    write_runs(root)
    return root
