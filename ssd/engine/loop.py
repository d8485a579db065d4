"""The training loop: data, model, optimizer, epochs, evaluation and run folder, in one process or many."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shlex
import signal
import time
from functools import partial
from itertools import islice

import torch

from ssd.common.console import how_to_run
from ssd.config import TrainConfig
from ssd.config.dataset_format import resolve_dataset
from ssd.data import DataError, Loader
from ssd.data_check.before_training import check_before_training
from ssd.engine.auto_settings import choose_model
from ssd.engine.data_wait import DataWait
from ssd.engine.distributed import World, ddp_ended
from ssd.engine.elastic import after_restart
from ssd.engine.epochs import describe_done, epochs_of, is_evaluated
from ssd.engine.error_messages import SharedError, TrainingError
from ssd.engine.evaluation import evaluate_model, metric_of
from ssd.engine.meter import LossMeter
from ssd.engine.preparation import prepare
from ssd.engine.progress import TimeLeft, progress_bar
from ssd.engine.replay import save_non_finite
from ssd.engine.run_folder import RunFolder
from ssd.engine.setup import as_config_error
from ssd.engine.signals import CONTINUE, SAVE, STOP, Agreement, Interrupted, Interruption
from ssd.engine.step import State, is_finite, train_step
from ssd.reports.sample_images import draw_batch
from ssd.reports.summary import write_summary


def run(config: TrainConfig) -> RunFolder:
    """Trains and evaluates as configured; returns the run folder.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after saving a checkpoint; the message contains the command that resumes the run.
    """
    with contextlib.redirect_stdout(io.StringIO()) as first_lines:  # printed below, where log.txt gets them, too
        resolve_dataset(config)
        config = after_restart(config)
    if config.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS for determinism
        torch.use_deterministic_algorithms(True)
    if config.cudnn_benchmark:
        torch.backends.cudnn.benchmark = True
    if config.resume:
        config.given = None  # type: ignore[misc]  # its settings were chosen when it started
    with as_config_error():
        choices = choose_model(config)
    world = World.join(config.device, config.dist_url)
    folder = RunFolder.open(config, world)
    with contextlib.closing(folder), folder.transcript.recording(config.quiet):
        if config.first_lines:
            folder.transcript.note(config.first_lines.rstrip("\n"))
        print(first_lines.getvalue(), end="")
        try:
            with Interruption().listening() as interruption:
                state, loader, val_loader = prepare(config, world, folder, choices)
                with ddp_ended(state):
                    if config.test_only:
                        evaluate_model(state.best_model(), val_loader, config, folder, state.epoch, state.step)
                    else:
                        if world.is_first and not config.resume:
                            if found := check_before_training(config, loader.dataset, val_loader.dataset):
                                folder.log("\n".join(found))
                        train(config, state, loader, val_loader, folder, interruption)
                        folder.wait_for_plots()
                        if world.is_first:
                            folder.try_task("summary.html", lambda: write_summary(folder.path))
        except Interrupted as error:
            raise Interrupted(error.code - 128, "" if config.test_only else folder.describe_resume()) from None
        except Exception as error:
            folder.transcript.note(f"error: {error}")
            raise
        last_lines = describe_next(config, folder)
        print(last_lines)
    if config.quiet:
        print(last_lines.partition("\n")[0])
    world.leave()
    return folder


def describe_next(config: TrainConfig, folder: RunFolder) -> str:
    """Returns the last lines that a run prints: its folder, and what to do with it."""
    line = f"run folder: {folder.path}"
    if config.test_only:
        return line
    command = f"{how_to_run('predict')} {shlex.quote(str(folder.path))} PHOTOS"
    return f"{line}\nsummary: {folder.path / 'summary.html'}\nnext: {command}"


def train(
    config: TrainConfig,
    state: State,
    loader: Loader,
    val_loader: Loader,
    folder: RunFolder,
    interruption: Interruption,
) -> None:
    """Trains epoch by epoch; each epoch is saved before its evaluation, so that a failing evaluation does not lose it."""
    epochs = epochs_of(config, len(loader), state.epoch, state.step - state.batch)
    agreement, left = Agreement(state.world), TimeLeft(epochs * len(loader), state.epoch * len(loader) + state.batch)
    if state.epoch >= epochs:
        folder.log(describe_done(config))
    if 0 < state.epoch != state.evaluated and state.batch == 0 and is_evaluated(config, state.epoch, epochs):
        evaluate_and_keep_best(config, state, val_loader, folder, interruption)  # the run was interrupted before it
    while state.epoch < epochs and not has_stalled(config, state, folder):
        with interruption.deferred():
            with loader.naming_lost_images():
                summary = train_epoch(config, state, loader, folder, interruption, agreement)
            state.epoch, state.batch = state.epoch + 1, 0
            save(state, folder)
            folder.log_new_faults(loader.dataset.log)
            line = f"epoch {state.epoch}/{epochs}: {summary}, {left.at(state.epoch * len(loader))}"
            if agreement.reduce(STOP if interruption.signum else CONTINUE) == STOP:
                folder.log(line)
                raise Interrupted(interruption.signum or signal.SIGTERM)
        may_stall = config.patience and state.evaluations_since_best + 1 >= config.patience
        folder.is_last = state.epoch == epochs or bool(may_stall)
        if is_evaluated(config, state.epoch, epochs):
            line += evaluate_and_keep_best(config, state, val_loader, folder, interruption)
        folder.log(line)


def has_stalled(config: TrainConfig, state: State, folder: RunFolder) -> bool:
    """Returns whether --patience evaluations in a row were no better than the best one, and logs it."""
    if not config.patience or state.evaluations_since_best < config.patience:
        return False
    folder.log(
        f"stopped after epoch {state.epoch}: the last {state.evaluations_since_best} evaluations were no better than "
        f"{state.best:.3f} (--patience); --resume with --patience 0 trains on"
    )
    return True


def evaluate_and_keep_best(
    config: TrainConfig, state: State, loader: Loader, folder: RunFolder, interruption: Interruption
) -> str:
    """Evaluates after an epoch; training continues if that fails, unless the data set option `on_error` is "raise".

    Returns:
        The result for the line of the epoch.
    """
    raises = config.dataset_options.get("on_error") == "raise"
    value = folder.try_task(
        "evaluation",
        lambda: evaluate_model(state.best_model(), loader, config, folder, state.epoch, state.step),
        reraise=(BrokenPipeError, DataError, SharedError) if raises else (BrokenPipeError,),
    )
    if interruption.signum is not None:  # Python drops an exception in some callbacks, as when a worker starts
        raise Interrupted(interruption.signum)
    state.evaluated = state.epoch
    if value is None:
        loader.restart_workers()
    with interruption.deferred():
        if value is not None and not math.isnan(value):  # NaN: nothing could be judged
            state.evaluations_since_best = 0 if value > state.best else state.evaluations_since_best + 1
            if value >= state.best:
                state.best = value
                folder.save("best.pt", state)
        folder.save("last.pt", state)
    return (
        "" if value is None or math.isnan(value) else f", {'AP' if metric_of(config) == 'coco' else 'AP50'} {value:.3f}"
    )


def save(state: State, folder: RunFolder) -> None:
    """Saves last.pt if the weights are finite.

    Raises:
        SharedError: A weight is not finite; the previous checkpoint is kept.
    """
    finite = torch.stack([p.detach().isfinite().all() for p in state.model.parameters()])
    if not bool(finite.all()):
        raise SharedError(
            f"weights are not finite after step {state.step}. {folder.describe_saved()}Common causes: the learning rate is "
            "too high (try a tenth of --lr), or no gradient clipping (--clip-grad-norm 10)"
        )
    folder.save("last.pt", state)


def train_epoch(
    config: TrainConfig,
    state: State,
    loader: Loader,
    folder: RunFolder,
    interruption: Interruption,
    agreement: Agreement,
) -> str:
    """Trains one epoch from `state.batch` on, at most until --iterations.

    The caller defers signals, so that they take effect after a step.

    Returns:
        Mean losses, images per second and the last learning rate, as text.

    Raises:
        Interrupted: By a signal, after saving the state.
    """
    state.model.train()
    loader.set_epoch(state.epoch, state.batch)
    steps = len(loader) - state.batch
    steps = max(0, min(steps, config.iterations - state.step)) if config.iterations else steps
    save_batch = partial(save_non_finite, config, state, loader, folder)
    meter, taken = LossMeter(state.world, state.model.priors.device, save_batch), 0
    epochs = epochs_of(config, len(loader), state.epoch, state.step - state.batch)
    title, saved = f"epoch {state.epoch + 1}/{epochs}", time.perf_counter()
    waits = DataWait(meter.device)
    batches = waits.timed(islice(loader, steps))
    bar = progress_bar(batches, state.world.is_first and not config.quiet, desc=title, total=steps)
    rate = max(state.schedule.get_last_lr())
    for batch in bar:
        if state.step == 0 and config.pictures and state.world.is_first:
            path = folder.path / "train_batch.png"
            folder.try_task(path.name, partial(draw_batch, batch, state.classes, config.pictures, path))
        rate = max(state.schedule.get_last_lr())  # the rate of this step; the step sets that of the next
        losses = train_step(config, state, batch.to(meter.device, non_blocking=True))
        meter.add(losses, state.step, batch.image_ids, loader.position)
        taken, state.batch = taken + 1, loader.position
        if state.keeps_weights_of_non_finite_loss() and not is_finite(losses):
            meter.read()  # raises
        is_due = config.save_minutes and taken < steps and time.perf_counter() - saved > 60 * config.save_minutes
        action = agreement.reduce_async(STOP if interruption.signum else SAVE if is_due else CONTINUE)
        if action or state.batch % config.print_freq == 0 or taken == steps:
            row = meter.read()
            meter.epoch.waiting += waits.take()
            folder.train_log.add({"epoch": state.epoch + 1, "step": state.step, "lr": rate, **row})
            shown = {
                "loc": f"{row['loc_loss']:.3f}",
                "cls": f"{row['cls_loss']:.3f}",
                "img_s": row["images_per_second"],
            }
            bar.set_postfix(shown, waiting_for_data=f"{meter.epoch.waiting_share():.0%}")
        if action:
            save(state, folder)
            saved = time.perf_counter()
        if action == STOP:
            raise Interrupted(interruption.signum or signal.SIGTERM)
    if taken < steps and state.world.size > 1:
        raise TrainingError(f"no image in a batch of epoch {state.epoch + 1} can be read; fix or remove the images")
    return f"{meter.epoch}, lr {rate:.3g}{meter.epoch.describe_divergence()}{meter.epoch.describe_waiting()}"
