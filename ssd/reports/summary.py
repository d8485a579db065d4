"""summary.html of a run folder: the result, what limits it, curves, images, settings and next steps on one page."""

from __future__ import annotations

import json
import shlex
from html import escape
from pathlib import Path
from typing import Any

from ssd.common.atomic_write import write_text
from ssd.common.class_names import display_name
from ssd.common.console import how_to_run
from ssd.reports.csv_log import CsvLog

_IMAGES = {  # file -> caption
    "loss.png": "Training losses and AP50 on the evaluation split",
    "pr.png": "Precision and recall of each class",
    "confusion.png": "Confusion matrix at the best score threshold of each class",
    "detections.png": "Evaluation images: annotations on the left, detections on the right",
    "train_batch.png": "Training images after augmentation, with their annotations",
}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}pre{overflow:auto;background:#f4f4f4;padding:.6em}"
    ".result{font-size:1.4em}"
)


def write_summary(folder: Path) -> Path:
    """Writes the page from the other files of a run folder; returns its path."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    file = folder / "eval.json"
    evaluation = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"classes": {}}
    title = f"{config['model']} on {Path(config['data_path'] or config['dataset']).name}"
    images = "".join(
        f'<h2>{escape(caption)}</h2>\n<img src="{name}" alt="">\n'
        for name, caption in _IMAGES.items()
        if (folder / name).is_file()
    )
    body = (
        f"<h1>{escape(title)}</h1>\n{_result(folder, evaluation)}{_class_table(evaluation['classes'])}"
        f"<h2>Next</h2>\n<pre>{escape(_next_steps(folder, config))}</pre>\n{images}"
        f"<h2>Settings</h2>\n<pre>{escape(_settings(config))}</pre>\n<h2>Log</h2>\n<pre>{escape(_log(folder))}</pre>\n"
    )
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    path = folder / "summary.html"
    write_text(path, f"<!doctype html>\n<html>\n<head>{head}</head>\n<body>\n{body}</body>\n</html>\n")
    return path


def _result(folder: Path, evaluation: dict[str, Any]) -> str:
    rows = [row for row in CsvLog(folder / "eval.csv").rows() if row["AP50"] == row["AP50"]]
    if not rows:
        return "<p>Not evaluated.</p>\n"
    best, last = max(rows, key=lambda row: row["AP50"]), rows[-1]
    text = f"AP50 {last['AP50']:.3f} after epoch {last['epoch']:.0f}"
    if best["AP50"] > last["AP50"]:
        text += f", best {best['AP50']:.3f} after epoch {best['epoch']:.0f}"
    skipped = evaluation.get("images_skipped")
    note = f" ({skipped} images could not be read)" if skipped else ""
    about = f"{evaluation.get('metric', '')}, {evaluation.get('images', 0)} evaluation images{note}"
    return f'<p class="result">{escape(text)}</p>\n<p>{escape(about)}</p>\n'


def _class_table(classes: dict[str, dict[str, Any]]) -> str:
    """Returns the AP of each class, lowest first, with what would raise it most."""
    rows = []
    for name, values in sorted(classes.items(), key=lambda item: (item[1]["ap"] is None, item[1]["ap"] or 0.0)):
        gains = values.get("gains") or {}
        worst = max(gains, key=lambda kind: gains[kind], default=None)
        limit = f"{worst} +{gains[worst]:.3f}" if worst is not None and gains[worst] >= 0.001 else ""
        ap = "-" if values["ap"] is None else f"{values['ap']:.3f}"
        cells = (
            ap,
            values.get("objects", ""),
            values.get("tp", ""),
            values.get("fp", ""),
            values.get("missed", ""),
            limit,
        )
        columns = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        rows.append(f"<tr><td>{escape(display_name(name))}</td>{columns}</tr>\n")
    titles = ("class", "AP", "objects", "correct", "wrong", "missed", "AP gain if fixed")
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f"<table>\n<tr>{head}</tr>\n{''.join(rows)}</table>\n" if rows else ""


def _next_steps(folder: Path, config: dict[str, Any]) -> str:
    path, patience = shlex.quote(str(folder)), " --patience 0" if config.get("patience") else ""
    length = "--iterations" if config.get("iterations") else "--epochs"
    trust = " --trust-config" if ":" in config["dataset"] else ""  # the data set is module:function
    return "\n".join(
        [
            f"{how_to_run('predict')} {path} PHOTOS    # detect in images and videos",
            f"{how_to_run('eval')} {path} --save {path}/evaluation{trust}    # images of the worst errors",
            f"{how_to_run('train')} --resume {path} {length} N{patience}{trust}    # train longer",
            f"{how_to_run('export')} {path}    # ONNX and others",
        ]
    )


def _settings(config: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in config.items() if value not in (None, [], {}))


def _log(folder: Path) -> str:
    """Returns the last 200 lines of the log, which begins with versions and command."""
    file = folder / "log.txt"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return "\n".join(lines if len(lines) <= 201 else [lines[0], "...", *lines[-200:]])
