"""Tests that each recipe describes itself and runs its first step on a tiny data set."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ssd import recipes
from ssd.common.errors import ConfigError
from ssd.data import open_dataset
from ssd.engine.loop import run
from ssd.engine.optim import build_optimizer
from ssd.engine.setup import make_model
from ssd.models.half_precision import has_native_bfloat16
from ssd.programs.train_arguments import parse_args
from ssd.reports.csv_log import CsvLog
from tests.ssd.small_folders import save_image, voc_object, write_voc

FILES = {path.stem: path for path in Path(recipes.__file__).parent.glob("*.json")}


def write_coco_split(root: Path, split: str, images: int) -> None:
    """Writes a split in the layout of the official COCO download, with gaps in the category ids."""
    entries, objects = [], []
    for i in range(images):
        save_image(root / f"{split}2017" / f"{i:012}.jpg", (64, 48), seed=i)
        entries.append({"id": i + 1, "file_name": f"{i:012}.jpg", "width": 64, "height": 48})
        box = [4 + i, 3, 30, 40]
        objects.append(
            {"id": i + 1, "image_id": i + 1, "category_id": (1, 90)[i % 2], "bbox": box, "area": 1200, "iscrowd": 0}
        )
    categories = [{"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}, {"id": 90, "name": "toothbrush"}]
    (root / "annotations").mkdir(exist_ok=True)
    text = json.dumps({"images": entries, "annotations": objects, "categories": categories})
    (root / "annotations" / f"instances_{split}2017.json").write_text(text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        write_coco_split(root / "coco", split, 2 if split == "train" else 1)
    for year, lists in (("2007", ("trainval", "test")), ("2012", ("trainval",))):
        for split in lists:
            names = {
                f"{year}_{split}_{i}": [voc_object(), voc_object("dog", (5, 5, 50, 35))]
                for i in range(1 if split == "test" else 2)
            }
            write_voc(root / "voc" / f"VOC{year}", names, split)
    return {"coco": root / "coco", "voc": root / "voc"}


def test_every_system_has_a_recipe() -> None:
    systems = ("torchvision", "amdegroot", "caffe", "nvidia", "qfgaohao", "bccd")
    assert all(any(name.startswith(system) for name in recipes.names()) for system in systems)


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_starts_with_command_and_result(name: str) -> None:
    values = json.loads(FILES[name].read_text())
    assert next(iter(values)) == "about"
    about = recipes.about(name)
    assert set(about) == {"what", "command", "by", "result", "source", "differs"}
    assert f"ssd/train.py --config {name} " in about["command"]
    assert about["by"] == "this project" or about["by"].startswith("published by ")


def test_recipe_listing_and_name_suggestions() -> None:
    assert all(recipes.about(name)["result"] in recipes.listing() for name in recipes.names())
    with pytest.raises(ConfigError, match="did you mean 'torchvision_ssd300_coco'"):
        recipes.find("torchvision_ssd300_cocoo")


def small(name: str, folders: dict[str, Path], *flags: str) -> list[str]:
    dataset = json.loads(FILES[name].read_text())["dataset"]
    source = ["--config", name, "--data-path", str(folders[dataset]), "--weights-backbone", "none", "--device", "cpu"]
    if name == "bccd":
        source += ["--train-split", "2007_trainval", "--val-split", "2007_test"]
    return [*source, "-j", "0", *flags]


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_builds_model_and_optimizer(name: str, folders: dict[str, Path]) -> None:
    config = parse_args(small(name, folders, "--no-fit-priors"))
    dataset = open_dataset(config.dataset, config.data_path, config.train_split, **config.dataset_options)
    model = make_model(config, dataset)
    groups = build_optimizer(config, model, world_size=8).param_groups
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
    rates = sorted({group["lr"] for group in groups})
    expected = {
        "nvidia_ssd300_resnet50_coco": [0.0026 * 8],
        "caffe_ssd300_voc0712": [0.001, 0.002],
        "caffe_ssd512_voc0712": [0.001, 0.002],
        "bccd": [0.0001, 0.002],
    }
    assert rates == pytest.approx(expected.get(name, [config.lr]))


FASTEST = ["--amp" if has_native_bfloat16(torch.device("cpu")) else "--no-amp"]

# caffe_ssd512_voc0712 has the rules of caffe_ssd300_voc0712 and the network of test_models.test_ssd512_training_on_meta;
# test_torchvision_commands runs torchvision's.
RUN = [name for name in recipes.names() if name != "caffe_ssd512_voc0712" and not name.startswith("torchvision")]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_recipe_runs_first_step(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    images = "1" if "ssd300_vgg16" in FILES[name].read_text() else "2"  # BatchNorm needs two
    flags = ["-b", images, "--iterations", "1", "--pictures", "0", "--print-freq", "1", *FASTEST]
    config = parse_args(small(name, folders, *flags))
    config.output_dir = str(tmp_path)
    run(config)
    assert "data check: all " in (tmp_path / "log.txt").read_text()
    rows = CsvLog(tmp_path / "train.csv").rows()
    assert [row["step"] for row in rows] == [1]
    assert all(math.isfinite(row["loc_loss"] + row["cls_loss"]) for row in rows)
