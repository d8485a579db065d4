"""Data sets: PASCAL VOC, COCO, YOLO, CSV, synthetic shapes and custom ones, opened by name; batches for the model."""

from ssd.data.annotations import Annotations
from ssd.data.dataset import DetectionDataset, ImageError, Summary
from ssd.data.faults import DataError, Fault
from ssd.data.formats.coco import COCODataset
from ssd.data.formats.csv_boxes import CSVDataset
from ssd.data.formats.custom import CustomDataset
from ssd.data.formats.json_items import JSONItemsDataset
from ssd.data.formats.shapes import ShapesDataset
from ssd.data.formats.voc import VOCDataset
from ssd.data.formats.yolo import YOLODataset
from ssd.data.loading.batch import Batch, collate
from ssd.data.loading.images import read_image
from ssd.data.loading.loader import Loader, build_loader
from ssd.data.loading.packed_images import PackedImages, Unrendered
from ssd.data.registry import open_dataset

__all__ = [
    "Annotations",
    "Batch",
    "COCODataset",
    "CSVDataset",
    "CustomDataset",
    "DataError",
    "DetectionDataset",
    "Fault",
    "ImageError",
    "JSONItemsDataset",
    "Loader",
    "PackedImages",
    "ShapesDataset",
    "Summary",
    "Unrendered",
    "VOCDataset",
    "YOLODataset",
    "build_loader",
    "collate",
    "open_dataset",
    "read_image",
]
