"""Allowed values of the settings that are chosen by name. Standard library only."""

FILE_DATASETS = ("voc", "coco", "yolo", "csv", "datumaro", "supervisely", "labelme", "shards")
# Options of data sets for training only. Evaluation keeps every image and ignores difficult and crowd objects, as VOC and
# COCO do; what looks for faults also continues after the first one.
TRAINING_ONLY = ("difficult", "crowd", "empty")
HIDING = (*TRAINING_ONLY, "on_error")
DATASETS = ("auto", "shapes", *FILE_DATASETS)
MODELS = (
    "ssd_tiny",
    "ssd300_vgg16",
    "ssd512_vgg16",
    *(f"ssd300_resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "ssd300_mobilenet_v1",
    "ssdlite300_squeezenet1_1",
    "ssdlite320_mobilenet_v2",
    "ssdlite320_mobilenet_v3_large",
)
PRESETS = ("torchvision", "caffe", "amdegroot", "balancap", "lufficc", "nvidia", "qfgaohao", "dusty_nv", "tensorflow")
AUGMENTATIONS = ("auto", "ssd", "ssdlite", "hflip", "multiscale", "lsj", "none")
SCHEDULES = ("multisteplr", "cosineannealinglr", "steplr", "polynomial")
OPTIMIZERS = ("sgd", "sgd_nesterov", "adamw")
DEFAULTS = ("auto", "torchvision")
FREEZE = ("none", "features", "backbone")
CHOICES = {  # setting -> allowed values
    "dataset": DATASETS,
    "model": MODELS,
    "preset": PRESETS,
    "data_augmentation": AUGMENTATIONS,
    "lr_scheduler": SCHEDULES,
    "lr_update": ("step", "epoch"),
    "opt": OPTIMIZERS,
    "freeze": FREEZE,
    "cuda_graph": ("auto", "on", "off"),
    "tensorboard": ("auto", "on", "off"),
    "defaults": DEFAULTS,
    "data_check": ("off", "fast", "full"),
    "eval_metric": ("auto", "voc", "voc07", "coco"),
}
