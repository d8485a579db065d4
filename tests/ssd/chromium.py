"""Drives a headless Chromium over the Chrome DevTools Protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *("--remote-debugging-port=0", "--window-size=1400,1000", "--hide-scrollbars"),
)
_SECONDS = 60


class Page:
    """An open page; `requests` has the URL of each of its requests, `faults` its exceptions and policy violations."""

    def __init__(self, socket: ClientConnection) -> None:
        self.requests: list[str] = []
        self.faults: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Result of a command; events that come before it are recorded."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._record(message)

    def _record(self, event: dict[str, Any]) -> None:
        about = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif event["method"] == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(about["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.faults.append(about["entry"]["text"])

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.evaluate(script):
            assert time.monotonic() < end, f"never true: {script}; {self.faults}"
            time.sleep(0.02)

    def click(self, selector: str, fraction: float = 0.5) -> None:
        """Clicks an element at a fraction of its width."""
        x, y = self._position(selector, fraction)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, selector: str, file: Path) -> None:
        """Drops a file on an element."""
        x, y = self._position(selector, 0.5)
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def _position(self, selector: str, fraction: float) -> list[float]:
        script = f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{block: "nearest"}});
            const r = node.getBoundingClientRect();
            return [r.left + {fraction} * r.width, r.top + r.height / 2];
        }})()"""
        position: list[float] = self.evaluate(script)
        return position

    def screenshot(self, path: Path) -> None:
        """Saves the whole page as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def opened(url: str) -> Iterator[Page]:
    """Opens a page in a new browser."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [PROGRAM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(folder), browser)
            pages = httpx.get(f"http://127.0.0.1:{port}/json/list", timeout=_SECONDS).json()
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            with connect(address, max_size=None) as socket:
                page = Page(socket)
                page.call("Page.navigate", url=url)
                yield page
        finally:
            browser.terminate()
            try:
                browser.wait(10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()


def _port(folder: Path, browser: subprocess.Popen[bytes]) -> int:
    file, end = folder / "DevToolsActivePort", time.monotonic() + _SECONDS
    while not file.exists() or not file.read_text().strip():
        assert browser.poll() is None and time.monotonic() < end, "the browser does not start"
        time.sleep(0.05)
    return int(file.read_text().split()[0])
