"""A real browser, headless, driven through the pipe that Chromium opens for debuggers."""

import fcntl
import itertools
import json
import os
import shutil
import subprocess
from base64 import b64decode

import pytest

from tests.waiting import PATIENCE, wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


def _open_pipe():
    """A pipe whose ends are none of the descriptors that the browser gets them as."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high


class Browser:
    """One page in a browser of its own. faults: errors that the page's scripts raised."""

    def __init__(self, profile, width=1200, height=900):
        read_here, write_there = _open_pipe()
        read_there, write_here = _open_pipe()
        # Chromium reads commands from descriptor 3 and writes to 4.
        command = (
            f'exec "$0" "$@" 3<&{read_there} 4>&{write_there} {read_there}<&- {write_there}>&-'
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command, BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu",
             "--remote-debugging-pipe", f"--window-size={width},{height}",
             f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read_there, write_there), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_there)
        os.close(write_there)
        self._in, self._out = os.fdopen(read_here, "rb", 0), write_here
        self._numbers, self._held, self._session = itertools.count(1), b"", None
        self.faults = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip

    def _ask(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            got = self._read()
            if got.get("id") == number:
                assert "error" not in got, got["error"]
                return got["result"]

    def _read(self):
        while b"\0" not in self._held:
            part = self._in.read(65536)
            assert part, "the browser is gone"
            self._held += part
        data, self._held = self._held.split(b"\0", 1)
        got = json.loads(data)
        if got.get("method") == "Runtime.exceptionThrown":
            self.faults.append(got["params"]["exceptionDetails"])
        if got.get("method") == "Log.entryAdded" and got["params"]["entry"]["level"] == "error":
            self.faults.append(got["params"]["entry"])
        return got

    def open(self, url):
        self.run("window.leaving = true")
        self._ask("Page.navigate", url=url)
        # The empty page before the first is complete, too, and one in between has no body yet.
        self.wait(
            "window.leaving === undefined && document.readyState === 'complete'"
            " && document.body !== null && location.href !== 'about:blank'"
        )

    def run(self, script):
        """The value of a JavaScript expression, awaited."""
        found = self._ask("Runtime.evaluate", expression=script, awaitPromise=True,
                          returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script):
        """Wait until an expression is true, and return its value."""
        values = []
        wait_until(lambda: values.append(self.run(script)) or values[-1])
        return values[-1]

    def press(self, key, code=0, modifiers=0):
        for kind in ("rawKeyDown", "char", "keyUp") if key == "Enter" else ("rawKeyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      modifiers=modifiers, text="\r" if key == "Enter" else "")  # fmt: skip

    def type(self, text):
        self._ask("Input.insertText", text=text)

    def prefer(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", features=features)

    def save_picture(self, path):
        path.write_bytes(b64decode(self._ask("Page.captureScreenshot")["data"]))

    def close(self):
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._in.close()
        os.close(self._out)
