"""What `ssd data check` does: all checks of a data set, also with the priors of the model that training would choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ssd.config import TrainConfig
from ssd.data import DetectionDataset
from ssd.data_check.objects import UNMATCHED, PriorReport, check_priors
from ssd.data_check.report import CheckReport, check_datasets
from ssd.data_check.splits import open_all
from ssd.engine.auto_settings import Facts, choose_model, choose_settings
from ssd.engine.setup import as_config_error, choose_device, normalized_objects


def check_data(config: TrainConfig, splits: tuple[str, ...], workers: int, *, with_priors: bool) -> CheckReport:
    """Checks a data set.

    Args:
        config: The format of the data set, its folder and options, and the model whose priors are matched with its objects.
        splits: Names of splits; if empty, all that exist.
        workers: Threads that decode images.
        with_priors: Whether to match the priors of the model with the objects.

    Raises:
        DataError: It cannot be opened at all.
    """
    datasets, remarks = open_all(config.dataset, str(config.data_path), splits, config.dataset_options)
    report = check_datasets(datasets, str(config.data_path), workers)
    report.remarks = remarks
    report.priors = _check_priors(config, datasets) if with_priors else None
    if report.priors is not None:
        report.add(unmatched.fault for unmatched in report.priors.unmatched)
        missed = sum(report.priors.coverage.objects) - sum(report.priors.coverage.matched)
        report.counts += Counter({UNMATCHED: missed - len(report.priors.unmatched)})
    return report


def _check_priors(config: TrainConfig, datasets: Mapping[str, DetectionDataset]) -> PriorReport | None:
    first = next(iter(datasets.values()))
    alike = [dataset for dataset in datasets.values() if dataset.classes == first.classes]
    choices = choose_model(config)
    boxes = normalized_objects(first)[0]
    choose_settings(choices, Facts.of(len(first), boxes, choose_device(config.device)))
    options = {key: value for key, value in config.model_options.items() if key != "trainable_layers"}
    with as_config_error():
        return check_priors(alike, config.model, config.image_size, preset=config.preset, **options)
