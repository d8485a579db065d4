"""Tests checkpoints whose classes are reordered, fewer or more than those of the data: head rows follow the names."""

import pytest
import torch

from ssd import WeightsError, build_model, load_weights
from ssd.checkpoints import reorder_classes
from ssd.checkpoints.head_rows import head_rows
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.data import open_dataset
from ssd.engine.setup import make_model, start_from

SAVED = ("car", "dog", "cat")


def model(classes=3):
    torch.manual_seed(0)
    return build_model("ssd_tiny", classes + 1, image_size=64, width=4).eval()


def checkpoint(classes=SAVED):
    trained = model(len(classes))
    for parameter in trained.head.classification_head.parameters():
        torch.nn.init.normal_(parameter)
    return trained, {
        "model": trained.state_dict(),
        "build_args": trained.build_args,
        "classes": list(classes),
    }


def logits(net):
    with torch.no_grad():
        return net.forward_raw(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))[1]


def test_class_head_rows_follow_class_names():
    trained, saved = checkpoint()
    ours = model()
    report = load_weights(ours, saved, classes=("dog", "cat", "car"))
    assert torch.equal(logits(ours), logits(trained)[..., [0, 2, 3, 1]])
    assert report.reordered and report.new_classes == [] and "reordered by the names" in str(report)
    assert not load_weights(ours, saved, classes=SAVED).reordered
    assert torch.equal(logits(ours), logits(trained))


def test_known_classes_keep_rows_and_new_classes_are_initialized():
    trained, saved = checkpoint()
    ours = model(2)
    before = logits(ours)
    report = load_weights(ours, saved, classes=("bird", "dog"))
    assert report.new_classes == ["bird"] and report.problems == [] and report.new_heads == []
    assert torch.equal(logits(ours)[..., [0, 2]], logits(trained)[..., [0, 2]])
    head = next(key for key, row in head_rows(ours).items() if row.is_class and key.endswith("bias"))
    fresh, loaded = (m.state_dict()[head].view(-1, 3) for m in (model(2), ours))
    assert torch.equal(loaded[:, 1], fresh[:, 1]) and not torch.equal(before, logits(ours))
    report = load_weights(model(), saved, classes=("a", "b", "c"))  # as many, and not one the same
    assert report.new_classes == ["a", "b", "c"] and len(report.new_heads) == 8


def test_number_of_class_names_must_equal_num_classes():
    with pytest.raises(ValueError, match=r"classes must name the model's 3 classes, got 2 names"):
        load_weights(model(), checkpoint()[1], classes=("a", "b"))
    saved = checkpoint()[1]
    saved["classes"].append("bird")
    with pytest.raises(
        ValueError, match=r"the mapping is damaged: it holds 4 class names, but its num_classes of 4 means"
    ):
        load_weights(model(), saved)


def test_evaluation_rejects_weights_without_the_classes(tmp_path):
    torch.save(checkpoint()[1], tmp_path / "w.pt")
    start_from(model(), str(tmp_path / "w.pt"), ("dog", "cat", "car"), is_trained=True)
    with pytest.raises(ConfigError, match=r"--test-only --weights .*: the weights do not have the classes bird of the"):
        start_from(model(2), str(tmp_path / "w.pt"), ("bird", "dog"), is_trained=True)


def test_weights_set_network_and_priors(tmp_path):
    trained = build_model("ssd_tiny", 4, image_size=64, width=4, prior_sizes=(9.0, 20.0, 30.0, 45.0, 60.0))
    saved = {"model": trained.state_dict(), "build_args": trained.build_args, "classes": list(SAVED)}
    torch.save(saved, tmp_path / "w.pt")
    data = open_dataset("shapes", size=2, image_size=64)
    data.classes = ("dog", "cat", "car")
    config = TrainConfig.of(
        {"dataset": "shapes", "model": "ssd_tiny", "weights": str(tmp_path / "w.pt"), "fit_priors": False}
    )
    ours = make_model(config, data)
    assert torch.equal(ours.priors, trained.priors) and ours.image_size == 64
    assert torch.equal(logits(ours.eval()), logits(trained.eval())[..., [0, 2, 3, 1]])
    config.image_size = 64
    assert torch.equal(make_model(config, data).priors, trained.priors)
    config.model_options = {"prior_sizes": [8.0, 20.0, 30.0, 45.0, 60.0]}  # given options take precedence
    assert not torch.equal(make_model(config, data).priors, trained.priors)
    config.model = "ssd300_vgg16"
    with pytest.raises(ConfigError, match=r"--weights .* is of ssd_tiny, not ssd300_vgg16; use --model ssd_tiny"):
        make_model(config, data)


def test_optimizer_state_is_permuted_with_class_rows():
    wanted = ("cat", "car", "dog")
    ours = model().train()
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1)
    image = torch.linspace(-1, 1, 6 * 64 * 64).view(2, 3, 64, 64)
    weight = torch.tensor([1.0, 2, 3, 4])

    def step(weight):
        optimizer.zero_grad()
        (ours.forward_raw(image)[1] * weight).square().sum().backward()
        optimizer.step()
        return ours.forward_raw(image)[1].detach()

    step(weight)
    copy = {k: v.clone() for k, v in ours.state_dict().items()}, optimizer.state_dict()
    copy = copy[0], torch.utils._pytree.tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, copy[1])
    expected = step(weight)
    ours.load_state_dict(copy[0])
    optimizer.load_state_dict(copy[1])
    assert reorder_classes(ours, SAVED, wanted, optimizer=optimizer)
    order = [0, 3, 1, 2]
    torch.testing.assert_close(step(weight[order]), expected[..., order], rtol=1e-4, atol=1e-5)
    assert not reorder_classes(ours, SAVED, SAVED)


def test_resume_rejects_other_class_names():
    with pytest.raises(
        WeightsError,
        match=r"^last.pt has other classes than the data: only the checkpoint has 'dog'; only the data has 'b",
    ):
        reorder_classes(model(), SAVED, ("car", "cat", "bird"), source="last.pt")
