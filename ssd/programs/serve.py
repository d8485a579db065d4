"""Serve trained models over HTTP, with a page to look at.

    ssd serve runs/ssd_tiny-shapes-1
    ssd serve runs/a runs/b --port 9000 --samples photos/

The page is at http://127.0.0.1:8000, the description of the interface at /docs. POST /v1/detect takes images as multipart
files or as base64 in JSON:

    curl -F images=@photo.jpg http://127.0.0.1:8000/v1/detect

Images of simultaneous requests are processed in batches. SIGTERM ends the server after the requests in flight are
answered. Without --host only this machine can reach it. It has no access control: put a proxy in front of it otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

from ssd.common.console import ArgumentParser, console_program, program_name
from ssd.common.errors import ConfigError
from ssd.common.packages import is_installed
from ssd.config import flag
from ssd.programs.device_arguments import HALF_DEFAULT, add_device_flag, add_half_flag, half_dtype
from ssd.serve.settings import BACKLOG, LOOPBACK, PACKAGES, Settings
from ssd.weight_files.names import checked_checkpoint, is_torchvision_name


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks the command line, without importing torch; `settings` has the settings of the server."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    missing = [package for module, package in PACKAGES.items() if not is_installed(module)]
    if missing:
        parser.error(f'the server needs {", ".join(missing)}: pip install "ssd_ops[serve]"')
    for name in ("batch_size", "max_images", "max_waiting", "max_connections"):
        if getattr(args, name) < 1:
            parser.error(f"{flag(name)} must be at least 1, got {getattr(args, name)}")
    for name in ("max_body_mb", "max_megapixels", "timeout"):
        if not 0 < getattr(args, name) < 1e6:
            parser.error(f"{flag(name)} must be above 0, got {getattr(args, name)}")
    if not 0 <= args.batch_window_ms <= 1000:
        parser.error(f"--batch-window-ms must be in 0..1000, got {args.batch_window_ms}")
    if not 0 <= args.port < 65536:
        parser.error(f"--port must be in 0..65535, got {args.port}")
    hosts = None if args.allowed_hosts is None else args.allowed_hosts.split(",")
    if hosts is not None and not all(re.fullmatch(r"\*|(\*\.)?[^\s*/]+", name) for name in hosts):
        parser.error(f"--allowed-hosts must be names such as a.example,*.b.example, got {args.allowed_hosts!r}")
    try:
        args.checkpoints = [checked_checkpoint(checkpoint) for checkpoint in args.checkpoints]
    except ConfigError as error:
        parser.error(str(error))
    if args.samples is not None and not os.path.isdir(args.samples):
        parser.error(f"--samples {args.samples} is not a folder")
    args.settings = _settings(args)
    return args


def _build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog=program_name("serve"), description=__doc__)
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="checkpoint",
        help="run folders (best.pt, else last.pt), checkpoint files, or names of torchvision's weights; the first one is "
        "the default of requests",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port; 0 chooses one (default: 8000)")
    parser.add_argument(
        "--allowed-hosts",
        metavar="NAME,...",
        help="host names that requests may be addressed to (default: those of this machine without --host, else all)",
    )
    add_device_flag(parser)
    add_half_flag(parser, HALF_DEFAULT)
    parser.add_argument(
        "--samples", metavar="DIR", help="folder of images to choose on the page (default: drawn shapes)"
    )
    _add_limits(parser, Settings())
    return parser


def _add_limits(parser: argparse.ArgumentParser, default: Settings) -> None:
    parser.add_argument(
        "-b",
        "--batch-size",
        type=int,
        default=default.batch_size,
        metavar="N",
        help="max images per batch (default: 8)",
    )
    parser.add_argument(
        "--batch-window-ms",
        type=float,
        default=1e3 * default.batch_window,
        metavar="X",
        help="how long an idle server waits for more images of a batch (default: 2)",
    )
    parser.add_argument(
        "--max-body-mb", type=float, default=32, metavar="X", help="max MiB of a request's body (default: 32)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=50, metavar="X", help="max size of an image (default: 50)"
    )
    for name, words in (
        ("max_images", "max images per request"),
        ("max_waiting", "max images that wait; further requests are answered with 503"),
        ("max_connections", "max open connections"),
    ):
        value = getattr(default, name)
        parser.add_argument(flag(name), type=int, default=value, metavar="N", help=f"{words} (default: {value})")
    parser.add_argument(
        "--timeout",
        type=float,
        default=default.timeout,
        metavar="X",
        help="seconds to receive a request, and to answer it (default: 30)",
    )


def _settings(args: argparse.Namespace) -> Settings:
    hosts = LOOPBACK if args.host in LOOPBACK else ()
    if args.allowed_hosts is not None:
        hosts = tuple(args.allowed_hosts.split(","))
    return replace(
        Settings(),
        batch_size=args.batch_size,
        batch_window=args.batch_window_ms / 1e3,
        max_body=int(args.max_body_mb * (1 << 20)),
        max_pixels=int(args.max_megapixels * 1e6),
        max_images=args.max_images,
        max_waiting=args.max_waiting,
        max_connections=args.max_connections,
        timeout=args.timeout,
        hosts=hosts,
    )


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the program until SIGTERM or Ctrl-C."""
    args = parse_args(argv)
    try:
        listener = _listen(args.host, args.port)
    except OSError as error:
        sys.exit(f"error: --host {args.host} --port {args.port}: {error.strerror or error}")
    from ssd.common.errors import DataError
    from ssd.engine.setup import choose_device
    from ssd.inference.detector import load
    from ssd.serve.app import create_app
    from ssd.serve.run import run
    from ssd.serve.samples import drawn_samples, read_samples
    from ssd.serve.service import Service

    try:
        device = choose_device(args.device)
        names = names_of(args.checkpoints)
        dtype = half_dtype(args.half, device)
        detectors = {name: load(path, device, dtype) for name, path in zip(names, args.checkpoints, strict=True)}
        samples = drawn_samples() if args.samples is None else read_samples(Path(args.samples))
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    app = create_app(Service(detectors, args.settings), samples)
    host, port = listener.getsockname()[:2]
    listener.listen(BACKLOG)  # who reads the next line may connect
    print(f"serving {', '.join(names)} on http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops it)")
    if args.host not in LOOPBACK:
        print("everyone who can reach this address can use the server: it has no access control")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn handles it, and raises it again when it has stopped
    run(app, listener, args.settings)


def names_of(checkpoints: list[str]) -> list[str]:
    """Returns a short name for each checkpoint: that of its file or run folder, numbered where several are the same."""
    names: list[str] = []
    for checkpoint in checkpoints:
        path = Path(os.path.abspath(checkpoint))
        is_run = path.stem in ("best", "last") and path.suffix == ".pt"
        name = checkpoint if is_torchvision_name(checkpoint) else path.parent.name if is_run else path.name
        name = re.sub(r"\.(pt|pth|safetensors)$", "", name) or "model"
        number, base = 1, name
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound but does not accept connections yet.

    Raises:
        OSError: The address is in use or does not exist.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
