"""A custom data set, named by import path: `my_package.my_module:MyDataset`.

The class or function is called with those of the keyword arguments `root` (the folder, if there is one) and `split`
that it accepts, and with the options. It returns a map-style data set (`len` and `[index]`).

Its items are `(image, target)`, or one dict with the key `image` beside those of the target:

* image: uint8 `[3, H, W]`, float in 0 .. 1 of that shape, a PIL image, or a uint8 array `[H, W, 3]`; RGB.
* `boxes` `[G, 4]`: xyxy in pixels, 0-based, right and bottom edges exclusive; `[0, 4]` without objects.
* `labels` `[G]`: integers 1 .. C - 1 (0 is the background).
* optional `ignore` (or `iscrowd`, `difficult`) `[G]`: neither object nor background.
* optional `image_id`: a unique integer; by default the index.

Class names come from the option or the attribute `classes`. When the data set is opened, every item is read once, to
count and check the objects; a method `target(index)` that returns the target with `size` (height, width) avoids reading
the images for this.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ssd.data.annotations import AnnotationsBuilder
from ssd.data.dataset import DetectionDataset, ImageError, Target
from ssd.data.faults import DataError, Fault, FaultLog
from ssd.data.formats.custom_items import ItemError, check_image, check_target, split_item


class CustomDataset(DetectionDataset):
    """A custom data set, validated item by item.

    Args:
        name: Import path `module:attribute`; the current folder is searched, as with `python -m`.
        root: Passed to it.
        split: Passed to it.
        classes: Names without background; None: the data set's attribute `classes`.
        empty: `"keep"` or `"drop"` images without objects.
        on_error: Handling of faults in the files: `"skip"` drops the object or file, `"raise"` raises an error.
        **options: Passed to it.

    Raises:
        DataError: The import path does not exist, the call fails, class names are missing, there is no usable item, or a
            fault with `on_error="raise"`.
    """

    def __init__(
        self,
        name: str,
        root: str | Path | None = None,
        split: str = "train",
        *,
        classes: Sequence[str] | None = None,
        empty: str = "keep",
        on_error: str = "skip",
        **options: Any,
    ) -> None:
        builder = AnnotationsBuilder(empty)
        self.items = _call(name, {} if root is None else {"root": root}, split, options)
        names = tuple(map(str, _class_names(name, self.items, classes)))
        log = FaultLog(on_error)
        self._rows: list[int] = []  # index in the user's data set of each image that is used
        self._scan(name, len(names) + 1, builder, log)
        super().__init__(f"{name} {split}", names, builder, log)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        # Not from memory: the user's data set may augment, and then image and target belong together.
        file = str(self.annotations.files[index])
        try:
            image, target = split_item(self.items[self._rows[index]])
            pixels = check_image(image)
            kept = check_target(target, self.num_classes, (int(pixels.shape[1]), int(pixels.shape[2])), file, self.log)
        except Exception as error:  # the user's code may raise anything; the loader skips or raises it
            raise ImageError(Fault(file, "item unusable", _reason(error))) from error
        return pixels, {**kept, "image_id": int(self.annotations.image_ids[index])}

    def load_image(self, index: int) -> Tensor:
        """Returns the image of item `index`: uint8 `[3, H, W]`."""
        return self[index][0]

    def relative_names(self, root: str | Path) -> list[str]:
        """Returns the names of the items, which are not files."""
        return [str(file) for file in self.annotations.files]

    def _scan(self, name: str, num_classes: int, builder: AnnotationsBuilder, log: FaultLog) -> None:
        read_target: Callable[[int], Any] | None = getattr(self.items, "target", None)
        seen: dict[int, int] = {}
        for row in range(len(self.items)):
            file = f"{name}[{row}]"
            try:
                if callable(read_target):
                    target = read_target(row)
                    size = _declared_size(target)
                else:
                    image, target = split_item(self.items[row])
                    height, width = check_image(image).shape[1:]
                    size = (int(height), int(width))
                kept = check_target(target, num_classes, size, file, log)
                image_id = int(target.get("image_id", row))
            except Exception as error:
                log.add(Fault(file, "item unusable", _reason(error)))
                continue
            if image_id in seen:
                raise DataError(f"{file} has the image_id {image_id} of item {seen[image_id]}; each must have its own")
            seen[image_id] = row
            before = builder.dropped
            builder.add(file, image_id, size, kept["boxes"].tolist(), kept["labels"].tolist(), kept["ignore"].tolist())
            if builder.dropped == before:
                self._rows.append(row)


def _call(name: str, root: dict[str, Any], split: str, options: dict[str, Any]) -> Any:
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DataError(
            f"{name}: the module {module_name!r} cannot be imported from here ({error}); name it as Python would, such "
            "as my_package.my_module:MyDataset, and run where it can be found or install it"
        ) from error
    factory: Any = module
    for part in attribute.split("."):
        factory = getattr(factory, part, None)
    if not callable(factory):
        public = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_") or "nothing"
        raise DataError(f"{name}: {module_name} has no class or function {attribute!r}; it has {public}")
    given = _accepted(name, factory, {**root, "split": split}, options)
    try:
        items = factory(**given)
    except Exception as error:
        raise DataError(f"{name} called with {_shown(given)} raised {_reason(error)}") from error
    if not hasattr(items, "__getitem__") or not hasattr(items, "__len__"):
        raise DataError(f"{name} must return a data set with len() and [index], got a {type(items).__name__}")
    return items


def _accepted(name: str, factory: Any, offered: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    # root and split are passed to a function that accepts them; an option that it does not accept is an error.
    parameters = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return {**offered, **options}
    unknown = [key for key in options if key not in parameters]
    if unknown:
        raise DataError(f"{name} takes no option {unknown[0]!r}; it takes {', '.join(parameters) or 'none'}")
    return {**{key: value for key, value in offered.items() if key in parameters}, **options}


def _class_names(name: str, items: Any, classes: Sequence[str] | None) -> Sequence[str]:
    found = classes if classes is not None else getattr(items, "classes", None)
    if isinstance(found, str) or not isinstance(found, Sequence) or not found:
        raise DataError(
            f"{name}: class names are missing; give the data set an attribute classes (a list of names without the "
            f"background, label i being classes[i - 1]), or the option classes; got {found!r:.80}"
        )
    return found


def _declared_size(target: Any) -> tuple[int, int]:
    if not isinstance(target, dict) or len(target.get("size", ())) != 2:
        raise ItemError("target(index) must return a dict with size, (height, width) of the image")
    height, width = (int(side) for side in target["size"])
    return height, width


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ItemError) else f"{type(error).__name__}: {error}"


def _shown(given: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in given.items()) or "no argument"
