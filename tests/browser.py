# SPDX-License-Identifier: MIT
"""A browser for tests: Debian's chromium without a window, driven by its own protocol over a pipe.

What it is: Browser, which opens one page after the other and tells what the page did: the errors of its
console, the value of an expression, a picture. No library is needed: a message is JSON with a zero byte
behind it, on the descriptors 3 and 4 of the browser.
Must not know: the page.
Invariant: the browser and its children end with the ``with`` block, and so does its profile.
Read next: test_play.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TIMEOUT_S = 120  # a bound for a browser that hangs; nothing waits for it
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str:
    """Return the path of a browser; skip the test where there is none."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("there is no chromium here: apt-get install --no-install-recommends chromium")


class Browser:
    """One chromium with one tab."""

    def __init__(self, folder: str) -> None:
        """Start it with a profile in a folder."""
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [
            find(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking", "--disable-extensions", "--hide-scrollbars",
            f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        # A shell moves the pipes to 3 and 4, by numbers between which nothing is in the way.
        shell = f'exec 18<&{to_browser} 19>&{from_browser}; exec 3<&18 4>&19 18<&- 19>&-; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", *command], pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._received = b""
        self._number = 0
        #: What the page wrote to its console as an error or a warning, and its uncaught exceptions.
        self.complaints: list[str] = []
        targets = self.send("Target.getTargets", session="")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.send("Target.attachToTarget", session="", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    # -- the protocol

    def send(self, method: str, session: str | None = None, **params):
        """Send one command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        session = self._session if session is None else session
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _receive(self):
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._in], [], [], TIMEOUT_S)
            assert ready, "the browser says nothing"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has ended"
            self._received += data
        line, _, self._received = self._received.partition(b"\0")
        return json.loads(line)

    def _note(self, event) -> None:
        params = event.get("params", {})
        method = event.get("method")
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([each.get("value") for each in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        self._last_event = method

    # -- what tests do

    def open(
        self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, still: bool = False
    ) -> None:
        """Load a file of this machine in a window of a size."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=path.as_uri())
        self.value("new Promise((done) => document.readyState === 'complete' ? done(1)"
                   " : addEventListener('load', () => done(1)))")  # fmt: skip

    def value(self, expression: str):
        """Return the value of an expression of JavaScript; a promise is waited for."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        details = result.get("exceptionDetails")
        assert not details, details["exception"].get("description", details)
        return result["result"].get("value")

    def key(self, name: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        common = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Click near the middle of an element, as a mouse does; it must be visible there.

        Not in it: on the line through the ends of an arc Skia counts a ring's sector as missed.
        """
        find = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        # Two frames: the browser finds by what it has painted.
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        x, y = self.value(
            f"(() => {{ const r = {find}.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + 0.45 * r.height]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path, whole: bool = True) -> None:
        """Write what is shown to a PNG file."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(data["data"]))


@contextlib.contextmanager
def browser():
    """Start a browser, and end it."""
    find()
    folder = tempfile.mkdtemp(prefix="browser.")
    one = Browser(folder)
    try:
        yield one
    finally:
        one.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":  # PAGE PICTURE [WIDTH [dark [CHAPTER [EXPRESSION]]]]
    arguments = sys.argv[1:]
    with browser() as shown:
        wide = int(arguments[2]) if len(arguments) > 2 else 1280
        shown.open(Path(arguments[0]).resolve(), width=wide, dark="dark" in arguments)
        for each in arguments[4:]:
            print(shown.value(each))
        shown.picture(Path(arguments[1]))
        print(shown.complaints)
