# SPDX-License-Identifier: MIT
"""Browsers for tests: Debian's chromium and firefox-esr in headless mode, each driven by its own protocol.

What it is: Browser, which opens one page after the other and reports its console errors, the value of an
expression, or a screenshot. No library is needed. A message for Chromium is JSON followed by a zero byte
(Chrome DevTools Protocol), on descriptors 3 and 4; for Firefox it is JSON in a WebSocket frame (WebDriver
BiDi).
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
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

TIMEOUT_S = 120  # a bound for a browser that hangs; nothing waits for it
NAMES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"), "firefox": ("firefox-esr", "firefox"),
}  # fmt: skip
PACKAGES = {"chromium": "chromium", "firefox": "firefox-esr"}


def find(kind: str = "chromium") -> str:
    """Return the path of a browser; skip the test if none is installed."""
    for name in NAMES[kind]:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"{kind} is not installed: apt-get install --no-install-recommends {PACKAGES[kind]}")


class Browser:
    """One browser with one tab: the parts that do not depend on its protocol."""

    #: Whether pages can be shown in light and in dark colours.
    looks: tuple[bool, ...] = ()

    _process: subprocess.Popen

    def __init__(self) -> None:
        """Begin without complaints."""
        #: What the page wrote to its console as an error or a warning, and its uncaught exceptions.
        self.complaints: list[str] = []
        self._number = 0

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def value(self, expression: str):
        """Return the value of a JavaScript expression; a promise is awaited."""
        raise NotImplementedError

    def _press(self, x: float, y: float) -> None:
        raise NotImplementedError

    def click(self, selector: str) -> None:
        """Click near the middle of an element, as a mouse does; it must be visible there.

        Not exactly there: on the line through the ends of an arc, Skia's hit test misses a ring's sector.
        """
        find = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        # Two frames: the browser's hit test uses the painted frame.
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        x, y = self.value(
            f"(() => {{ const r = {find}.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + 0.45 * r.height]; })()"
        )
        self._press(x, y)


class Chromium(Browser):
    """One chromium."""

    looks = (False, True)

    def __init__(self, folder: str) -> None:
        """Start it with a profile in a folder."""
        super().__init__()
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [
            find(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking", "--disable-extensions", "--hide-scrollbars",
            f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        # A shell moves the pipes to 3 and 4, by way of numbers that are free.
        shell = f'exec 18<&{to_browser} 19>&{from_browser}; exec 3<&18 4>&19 18<&- 19>&-; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", *command], pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._received = b""
        targets = self.send("Target.getTargets", session="")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.send("Target.attachToTarget", session="", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and its children."""
        self._kill()
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
            assert ready, "no answer from the browser"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has exited"
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

    # -- for tests

    def open(
        self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, still: bool = False
    ) -> None:
        """Load a local file in a window of the given size."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url="about:blank")
        self.load(path.as_uri())

    def load(self, url: str) -> None:
        """Load an address."""
        self.send("Page.navigate", url=url)
        self.value("new Promise((done) => document.readyState === 'complete' ? done(1)"
                   " : addEventListener('load', () => done(1)))")  # fmt: skip

    def value(self, expression: str):
        """Return the value of a JavaScript expression; a promise is awaited."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        details = result.get("exceptionDetails")
        assert not details, details["exception"].get("description", details)
        return result["result"].get("value")

    def key(self, name: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        common = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def _press(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path, whole: bool = True) -> None:
        """Write a screenshot to a PNG file."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(data["data"]))


# BiDi's names of keys.
KEYS = {
    "Enter": "\ue007", "PageUp": "\ue00e", "PageDown": "\ue00f", "End": "\ue010", "Home": "\ue011",
    "ArrowLeft": "\ue012", "ArrowRight": "\ue014", "Tab": "\ue004", "Escape": "\ue00c",
}  # fmt: skip
# Dark, and without motion: chromium shows the other looks.
PREFERENCES = {"ui.systemUsesDarkTheme": 1, "ui.prefersReducedMotion": 1}
MASK = b"\1\2\3\4"  # a client's frames must be masked, and Firefox takes zeros for no mask


class Firefox(Browser):
    """One firefox."""

    looks = (True,)

    def __init__(self, folder: str) -> None:
        """Start it with a profile in a folder."""
        super().__init__()
        lines = [f'user_pref("{name}", {value});\n' for name, value in PREFERENCES.items()]
        Path(folder, "user.js").write_text("".join(lines), encoding="ascii")
        self._process = subprocess.Popen(
            [find("firefox"), "--headless", "--no-remote", "--profile", folder, "--remote-debugging-port=0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "HOME": folder},
        )  # fmt: skip
        self._reader = None
        self._socket = socket.socket()
        try:
            said = b""
            while b"ws://" not in said.rpartition(b"\n")[0]:
                ready, _, _ = select.select([self._process.stderr], [], [], TIMEOUT_S)
                assert ready, "no answer from the browser"
                more = os.read(self._process.stderr.fileno(), 4096)
                assert more, f"the browser has exited: {said!r}"
                said += more
            # Its later output must not fill the pipe.
            self._reader = threading.Thread(target=self._process.stderr.read)
            self._reader.start()
            self._connect(said.partition(b"ws://")[2].split()[0].decode())
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect((host, int(port)))
        self._in = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()  # noqa: TID251
        lines = (
            "GET /session HTTP/1.1", f"Host: {address}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "",
        )  # fmt: skip
        self._socket.sendall("\r\n".join(lines).encode())
        assert b" 101 " in self._in.readline()
        while self._in.readline() != b"\r\n":
            pass
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded"])
        self._tab = self.send("browsingContext.getTree")["contexts"][0]["context"]

    def close(self) -> None:
        """End the browser and its children."""
        self._kill()
        if self._reader is not None:
            self._reader.join()
        self._process.stderr.close()
        if hasattr(self, "_in"):
            self._in.close()
        self._socket.close()

    def send(self, method: str, **params):
        """Send one command and return its result."""
        self._number += 1
        data = json.dumps({"id": self._number, "method": method, "params": params}).encode()
        size = len(data)
        if size < 126:
            head = bytes((0x81, 0x80 | size))
        elif size < 1 << 16:
            head = bytes((0x81, 0x80 | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((0x81, 0x80 | 127)) + size.to_bytes(8, "big")
        mask = (MASK * (size // 4 + 1))[:size]
        masked = int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")
        self._socket.sendall(head + MASK + masked.to_bytes(size, "big"))
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert answer["type"] == "success", (method, answer)
                return answer["result"]
            if answer.get("method") == "log.entryAdded" and answer["params"]["level"] in ("error", "warn"):
                self.complaints.append(answer["params"]["text"])

    def _receive(self):
        data, last = b"", False
        while not last:
            first, size = self._in.read(2)
            if size >= 126:
                size = int.from_bytes(self._in.read(2 if size == 126 else 8), "big")
            data, last = data + self._in.read(size), bool(first & 0x80)
        return json.loads(data)

    def open(
        self, path: Path, width: int = 1280, height: int = 900, dark: bool = True, still: bool = True
    ) -> None:
        """Load a local file in a window of the given size; colours and motion are fixed by the profile."""
        size = {"width": width, "height": height}
        self.send("browsingContext.setViewport", context=self._tab, viewport=size, devicePixelRatio=1)
        self.load("about:blank")
        self.load(path.as_uri())

    def load(self, url: str) -> None:
        """Load an address."""
        self.send("browsingContext.navigate", context=self._tab, url=url, wait="complete")

    def value(self, expression: str):
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = self.send(
            "script.evaluate", expression=expression, target={"context": self._tab}, awaitPromise=True
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return _plain(answer["result"])

    def key(self, name: str, code: int = 0, text: str = "") -> None:
        """Press and release a key."""
        actions = [{"type": kind, "value": KEYS[name]} for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self.send("input.performActions", context=self._tab, actions=[keyboard])

    def _press(self, x: float, y: float) -> None:
        actions = [
            {"type": "pointerMove", "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0},
        ]  # fmt: skip
        mouse = {"type": "pointer", "id": "mouse", "actions": actions}
        self.send("input.performActions", context=self._tab, actions=[mouse])

    def picture(self, path: Path, whole: bool = True) -> None:
        """Write a screenshot to a PNG file."""
        origin = "document" if whole else "viewport"
        data = self.send("browsingContext.captureScreenshot", context=self._tab, origin=origin)
        path.write_bytes(base64.b64decode(data["data"]))


def _plain(value, known=None):
    """Translate a value of BiDi, which writes an object that occurs twice only once."""
    known = {} if known is None else known
    kind, number = value["type"], value.get("internalId")
    found = value.get("value")
    if "value" not in value and number in known:
        return known[number]
    if kind == "array":
        found = [_plain(each, known) for each in found]
    elif kind == "object":
        found = {name: _plain(each, known) for name, each in found}
    known[number] = found
    return found


@contextlib.contextmanager
def browser(kind: str = "chromium"):
    """Start a browser, and end it."""
    find(kind)
    folder = tempfile.mkdtemp(prefix="browser.")
    one = Firefox(folder) if kind == "firefox" else Chromium(folder)
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
