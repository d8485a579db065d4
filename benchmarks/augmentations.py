"""AP over epochs and the effect of each augmentation, or of losses, on a small data set, as one table.

    python benchmarks/augmentations.py --data-path voc2007_mini --weights-backbone FILE --jobs 4
    python benchmarks/augmentations.py --data-path FOLDER --variants flip "IoU-aware scores" "GIoU loss" --metric coco

Trains the settings that `ssd/train.py` chooses with each augmentation and several seeds, each in a process of its own, and
prints AP50 on the evaluation split as mean and range over the seeds. Settings were chosen on no other data, so the last
column is the result of an epoch that was fixed before, not the best one. `--save FILE` keeps the numbers as JSON, and
`--table FILE` prints the table of such a file. The file is written after each training, and the same command continues it.

`--variants` chooses some of these augmentations, or others, or losses; the latter are to be compared with `flip`, which
they include. `--metric coco` adds tables of AP75, and of AP over IoU 0.5 .. 0.95.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
QUICK = "--model ssd_tiny --image-size 64 --model-option width=4"
AUGMENTATIONS = {  # name -> flags
    "none": "--data-augmentation none",
    "flip": "--data-augmentation hflip",
    "flip, mild crop": "--data-augmentation hflip --augmentation-option crop=mild",
    "flip, mild color": "--data-augmentation hflip --augmentation-option photometric=mild",
    "flip, mild crop and color": "--data-augmentation hflip --augmentation-option crop=mild "
    "--augmentation-option photometric=mild",
    "flip, mosaic": "--data-augmentation hflip --augmentation-option mosaic=0.5",
    "flip, copy-paste": "--data-augmentation hflip --augmentation-option copy_paste=0.5",
    "as SSD (flip, crop, color, zoom out)": "--data-augmentation ssd",
}
LOSSES = {
    "GIoU loss": "--data-augmentation hflip --model-option box_loss=giou",
    "CIoU loss": "--data-augmentation hflip --model-option box_loss=ciou",
    "IoU-aware scores": "--data-augmentation hflip --model-option class_target=iou",
    "GIoU loss, IoU-aware scores": "--data-augmentation hflip --model-option box_loss=giou "
    "--model-option class_target=iou",
}
LOSSES |= {  # losses of boxes are smaller than those of deltas
    f"{name} loss, weight {weight}": f"{LOSSES[f'{name} loss']} --model-option loc_weight={weight}"
    for name in ("GIoU", "CIoU")
    for weight in (5, 10)
}
VARIANTS = {**AUGMENTATIONS, "multi-scale (large-scale jitter)": "--data-augmentation lsj", **LOSSES}
METRICS = {"auto": ("AP50",), "coco": ("AP50", "AP75", "AP")}  # columns of eval.csv


def train(args: argparse.Namespace, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Runs one training; returns each AP by epoch, and the end of its output if it failed."""
    command = [sys.executable, str(ROOT / "ssd/train.py"), "--data-path", args.data_path, *VARIANTS[name].split()]
    command += ["--seed", str(seed), "--epochs", str(args.epochs), "--eval-every", str(max(1, args.epochs // 5))]
    command += ["--pictures", "0", "--workers", "1", "--eval-metric", args.metric, "--output-dir", str(folder)]
    command += args.flags.split()
    if args.quick:
        command += QUICK.split()
    if args.weights_backbone:
        command += ["--weights-backbone", args.weights_backbone]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    with (folder / "eval.csv").open(newline="") if (folder / "eval.csv").is_file() else open(os.devnull) as file:
        rows = list(csv.DictReader(file))
    values = {column: {row["epoch"]: float(row[column]) for row in rows} for column in METRICS[args.metric]}
    error = {} if done.returncode == 0 else {"error": (done.stdout + done.stderr)[-500:]}
    return {"augmentation": name, "seed": seed, **values, **error}


@cache
def machine() -> dict[str, Any]:
    """Returns the machine and the versions; imports torch."""
    import torch

    sys.path.insert(0, str(ROOT))
    from benchmarks.machine import describe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return describe(device, int(os.environ.get("OMP_NUM_THREADS", "1")))


def saved(path: Path | None, command: list[str]) -> list[dict[str, Any]]:
    """Returns the completed trainings of a file that the same command wrote."""
    if path is None or not path.is_file():
        return []
    report = json.loads(path.read_text())
    if report["command"] != command:
        sys.exit(f"{path} has the results of another command: {' '.join(report['command'])}; choose another --save")
    return [run for run in report["runs"] if "error" not in run]


def all_runs(
    args: argparse.Namespace, wanted: list[tuple[str, int]], done: list[dict[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Yields all trainings up to now, in the order of `wanted`, first those that are done, then after each further one."""
    results = {(run["augmentation"], run["seed"]): run for run in done}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        rest = [run for run in wanted if run not in results]
        jobs = {pool.submit(train, args, *run, Path(folder) / str(i)): run for i, run in enumerate(rest)}
        yield [results[run] for run in wanted if run in results]
        for job in as_completed(jobs):
            results[jobs[job]] = job.result()
            yield [results[run] for run in wanted if run in results]


def tables(runs: list[dict[str, Any]]) -> str:
    """Returns a Markdown table of each AP, with its name above it if there are several."""
    columns = [column for column in METRICS["coco"] if column in runs[0]]
    if len(columns) == 1:
        return table(runs, *columns)
    return "\n\n".join(f"{column}:\n\n{table(runs, column)}" for column in columns)


def table(runs: list[dict[str, Any]], column: str) -> str:
    """Returns an AP as a Markdown table: a row for each variant, a column for each evaluated epoch."""
    epochs = sorted({int(epoch) for run in runs for epoch in run[column]})
    lines = ["| augmentation | " + " | ".join(f"epoch {epoch}" for epoch in epochs) + " |"]
    lines.append("| --- |" + " ---: |" * len(epochs))
    for name in dict.fromkeys(run["augmentation"] for run in runs):
        cells = []
        for epoch in epochs:
            of_seeds = [run[column].get(str(epoch)) for run in runs if run["augmentation"] == name]
            values = [value for value in of_seeds if value is not None]
            mean = sum(values) / len(values) if values else 0.0
            cells.append(f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})" if values else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Trains and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", help="data set")
    parser.add_argument("--weights-backbone", help="pretrained weights (default: none)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each run (default: 20)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: 3)")
    names = ", ".join(map(repr, VARIANTS))
    parser.add_argument(
        "--variants", nargs="+", metavar="NAME", choices=VARIANTS, default=list(AUGMENTATIONS), help=f"of {names}"
    )
    parser.add_argument("--metric", choices=METRICS, default="auto", help="--eval-metric of the trainings")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time (default: 1)")
    parser.add_argument("--flags", default="", help="more flags of every training: --flags='--image-size 224'")
    parser.add_argument("--save", type=Path, help="JSON file for the numbers; trainings that it has are not repeated")
    parser.add_argument("--table", help="print the table of this JSON file, and train nothing")
    parser.add_argument("--quick", action="store_true", help="one epoch of a tiny network, to see that it works")
    args = parser.parse_args()
    if args.quick:
        args.epochs = args.seeds = 1
    if args.table:
        print(tables(json.loads(Path(args.table).read_text())["runs"]))
        return
    if args.data_path is None:
        parser.error("--data-path is required")
    wanted = [(name, seed) for seed in range(args.seeds) for name in args.variants]
    runs: list[dict[str, Any]] = []
    for runs in all_runs(args, wanted, saved(args.save, sys.argv[1:])):
        if args.save:
            report = {"command": sys.argv[1:], "machine": machine(), "runs": runs}
            args.save.write_text(json.dumps(report, indent=1) + "\n")
    print(tables(runs))
    for run in runs:
        if "error" in run:
            print(f"{run['augmentation']}, seed {run['seed']} failed: {run['error']}", file=sys.stderr)


if __name__ == "__main__":
    main()
