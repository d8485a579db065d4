"""Maps the names that other programs use for a setting to the flag here. Standard library only."""

from __future__ import annotations

_FLAGS = {
    "--lr": ("learning_rate", "base_lr", "lr0", "learningrate"),
    "--batch-size": ("batch", "bs", "train_batch_size", "per_device_train_batch_size", "samples_per_gpu"),
    "--epochs": ("num_epochs", "max_epochs", "n_epochs", "num_train_epochs"),
    "--iterations": ("steps", "max_steps", "max_iter", "num_steps", "total_steps"),
    "--data-path": (
        "data",
        "data_dir",
        "dataset_path",
        "dataset_dir",
        "dataset_root",
        "data_root",
        "root",
        "train_data",
    ),
    "--output-dir": ("output", "out", "out_dir", "save_dir", "save_path", "project", "work_dir", "logdir", "log_dir"),
    "--image-size": ("imgsz", "img", "img_size", "input_size", "size", "resolution", "img_scale"),
    "--opt": ("optimizer", "optim"),
    "--workers": ("num_workers", "n_workers", "dataloader_num_workers", "workers_per_gpu"),
    "--model": ("arch", "architecture", "backbone", "network", "net", "cfg_model"),
    "--amp": ("fp16", "bf16", "half", "mixed_precision", "precision"),
    "--lr-scheduler": ("scheduler", "lr_policy", "lr_schedule", "cos_lr"),
    "--warmup-iters (steps)": ("warmup", "warmup_steps", "warmup_epochs"),
    "--clip-grad-norm": ("grad_clip", "clip_grad", "gradient_clip_val", "max_grad_norm", "clip_gradients"),
    "--accumulate (parts of a batch; --batch-size counts all of them)": (
        *("accum_iter", "accumulation_steps", "gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum"),
    ),
    "--patience (evaluations, see --eval-every)": ("early_stopping", "early_stopping_patience", "early_stop"),
    "--trainable-backbone-layers, the number of stages that are trained": (
        *("freeze_backbone", "frozen_stages", "freeze_layers", "freeze_at", "trainable_layers"),
    ),
    "--ema-decay": ("ema", "model_ema"),
    "--lr-gamma": ("gamma",),
    "--lr-steps": ("milestones", "steps_lr", "lr_milestones", "decay_epochs"),
    "--data-augmentation": ("augment", "aug", "augmentation", "augmentations", "transforms"),
    "--augmentation-option mosaic=P": ("mosaic", "mosaic_prob"),
    "--augmentation-option copy_paste=P": ("copy_paste", "copypaste"),
    "--weights-backbone": ("pretrained_backbone", "weights_backbone_path", "basenet", "backbone_weights"),
    "--seed": ("random_seed", "manual_seed"),
    "--config": ("cfg", "config_file", "config_path", "recipe"),
    "--test-only": ("eval", "evaluate", "eval_only", "validate", "test", "val"),
    "--eval-every": (
        "val_interval",
        "eval_interval",
        "evaluation_interval",
        "validation_epochs",
        "check_val_every_n_epoch",
    ),
    "--print-freq": ("log_interval", "log_every", "print_every", "logging_steps"),
    "--device, and for several GPUs torchrun --nproc_per_node=N": (
        "gpu",
        "gpus",
        "gpu_ids",
        "devices",
        "cuda",
        "accelerator",
    ),
    "--resume to continue a run, or --weights to start from its weights": (
        *("checkpoint", "ckpt", "load", "load_from", "resume_from", "pretrained", "trained_model", "resume_net"),
    ),
    "--model-option nms_iou_threshold=0.45": ("iou", "iou_thres", "nms_thresh", "nms_threshold", "iou_threshold"),
    "--model-option score_threshold=0.01": ("conf", "conf_thres", "conf_threshold", "score_thresh", "score_threshold"),
}
_FLAG_BY_NAME = {name: flag for flag, names in _FLAGS.items() for name in names}
_ADVICE = {
    "num_classes": "the number of classes comes from the data set; --dataset-option classes=a,b selects a subset",
}
_NOT_SHARDED = (
    "the weights of these detectors fit on one GPU, so nothing is sharded; use torchrun --nproc_per_node=N (DDP)"
)
_ADVICE |= dict.fromkeys(("fsdp", "fsdp2", "use_fsdp", "deepspeed", "zero", "strategy", "sharding"), _NOT_SHARDED)
_ADVICE |= {name: _ADVICE["num_classes"] for name in ("classes", "n_classes", "nc", "class_names", "names", "labels")}


def advice_for(name: str) -> str | None:
    """Returns what to use here for a flag or key of another program, or None if the name is not known."""
    key = name.lstrip("-").partition("=")[0].lower().replace("-", "_")
    if key in _ADVICE:
        return _ADVICE[key]
    return f"use {_FLAG_BY_NAME[key]}" if key in _FLAG_BY_NAME else None
