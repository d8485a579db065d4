"""Run folders and checkpoints from before options were renamed: `old_run` was written by commit a3e591f."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ssd import build_from_weights, build_model
from ssd.common.errors import ConfigError
from ssd.config import load_config
from ssd.engine.loop import run
from ssd.programs.train_arguments import parse_args

OLD_RUN = Path(__file__).parent / "old_run"
RULES = {  # as the run was started: suppress_at=">=", positive_at=">", classes="best", match_ and nms_threshold
    "suppress_equal": True,
    "match_equal": False,
    "multi_label": False,
    "match_iou_threshold": 0.4,
    "nms_iou_threshold": 0.5,
}


def test_old_checkpoint_builds_same_detector() -> None:
    """With the rules and the results that it had when it was written."""
    model = build_from_weights(OLD_RUN / "last.pt").eval()
    assert {name: getattr(model.preset, name) for name in RULES} == RULES
    image = torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64).remainder(251).div(250)
    with torch.no_grad():
        loc, logits = model.forward_raw(model.normalize(image))
        found = model.detect(loc, logits)
    sums = torch.stack([loc.sum(), logits.sum(), found.scores.sum()])
    torch.testing.assert_close(sums, torch.tensor([1.7440, 8.1713, 41.4972]), rtol=1e-3, atol=1e-3)
    assert found.counts.tolist() == [200]
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([0.7767, 0.7414, 0.8480, 0.8832]), rtol=1e-3, atol=1e-3)


def test_old_run_resumes(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    run(parse_args(["--resume", str(folder), "--output-dir", str(folder), "--iterations", "6"]))
    checkpoint = torch.load(folder / "last.pt", weights_only=True)
    assert checkpoint["step"] == 6
    assert {name: checkpoint["build_args"][name] for name in RULES} == RULES
    assert RULES.items() <= json.loads((folder / "config.json").read_text())["model_options"].items()


def test_old_settings_get_current_names(tmp_path: Path) -> None:
    settings = load_config(OLD_RUN / "config.json")
    assert settings["model_options"] == {"width": 1, "levels": 2, **RULES}
    old = {"dataset_options": {"faults": "refuse", "classes": "a,b"}, "model_options": {"classes": "all"}}
    (tmp_path / "a.json").write_text(json.dumps(old))
    new = load_config(tmp_path / "a.json")
    assert new["dataset_options"] == {"on_error": "raise", "classes": "a,b"}
    assert new["model_options"] == {"multi_label": True}


def test_old_option_names_raise() -> None:
    with pytest.raises(ValueError, match=r"unknown option of ssd_tiny 'match_threshold'.*match_iou_threshold"):
        build_model("ssd_tiny", 2, match_threshold=0.4)
    with pytest.raises((ConfigError, ValueError), match="unknown option of ssd_tiny 'suppress_at'"):
        build_model("ssd_tiny", 2, suppress_at=">")
