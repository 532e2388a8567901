"""A headless Chromium, driven by its DevTools protocol over a pipe: nothing but the standard library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0
"""Seconds that anything may take."""


def browser() -> str | None:
    """The path of one, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of `folder`, on this machine alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class Tab:
    """One page. Messages are JSON between zeros; what the page asked other servers for is in `strangers`."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest, self._count = read, write, b"", 0
        self.strangers: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank", session=None)["targetId"]
        told = self.call("Target.attachToTarget", targetId=target, flatten=True, session=None)
        self._session = told["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, *, session: str | None = "own", **params: Any) -> Any:
        """The result of a method of the protocol. Raises `RuntimeError` with what the browser says."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if session is not None and self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._heard(answer)

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("the browser has gone")
            self._rest += part
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)

    def _heard(self, event: Any) -> None:
        told = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
                self.strangers.append(url)
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"]))
        if event.get("method") == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.errors.append(json.dumps(told["args"]))

    def value(self, expression: str) -> Any:
        """What an expression is in the page, as JSON has it."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(json.dumps(told["exceptionDetails"]))
        return told["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until an expression is true. Raises `TimeoutError`."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := self.value(expression):
                return found
            time.sleep(0.05)
        raise TimeoutError(f"{expression} has not come true; {self.value('document.body.innerText')[:500]}")

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file as a person does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file.resolve())])

    def drag(self, points: list[tuple[float, float]]) -> None:
        """The mouse pressed at the first point, moved through all, released at the last."""
        for kind, (x, y) in zip(
            ("mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"),
            (*points, points[-1]),
            strict=True,
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)


@contextmanager
def chromium(profile: Path, *, width: int = 1200, height: int = 900) -> Iterator[Tab]:
    """A tab of a headless browser that has its profile in the folder `profile` and no network of its own."""
    program = browser()
    assert program is not None
    (its_read, our_write), (our_read, its_write) = os.pipe(), os.pipe()
    words = [
        *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", f"--user-data-dir={profile}", f"--window-size={width},{height}"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    ]
    script = f'exec "$@" 3<&{its_read} 4>&{its_write}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *words],
        pass_fds=(its_read, its_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_read)
    os.close(its_write)
    try:
        yield Tab(our_read, our_write)
    finally:
        process.terminate()
        process.wait()
        os.close(our_write)
        os.close(our_read)
