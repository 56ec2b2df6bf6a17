"""A browser that shows nothing, asked over a pipe what it sees (the DevTools protocol, https://chromedevtools.github.io)."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe"),
]
PATIENCE_S = 250
"""Before it is a failure that something does not come: machines differ."""


class Browser:
    """One page; `requests` and `complaints` are all that it has asked for and said on its console so far."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._calls = to, back, b"", 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session = ""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command, and its answer."""
        self._calls += 1
        number, session = self._calls, {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps({"id": number, "method": method, "params": params} | session).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return dict(message["result"])

    def open(self, address: str) -> None:
        """Go there."""
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def see(self, script: str) -> Any:
        """What an expression is worth in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait for an expression to come true."""
        end = time.monotonic() + PATIENCE_S
        while not self.see(f"Boolean({script})"):
            assert time.monotonic() < end, f"{script} never came; {self.see('document.body.innerText')[:1000]}"
            time.sleep(0.1)

    def picture(self, path: Path) -> Path:
        """What is in the window, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
        return path

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._back, 1 << 20)
            assert more, "the browser has gone"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message = dict(json.loads(line))
        facts = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(facts["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(facts["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(str(facts["entry"]["text"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(facts["args"]))
        return message


@contextmanager
def browser(profile: Path, wide: int = 1200, high: int = 900) -> Iterator[Browser]:
    """A browser until the end of the block."""
    (their_in, our_out), (our_in, their_out) = _pipe(), _pipe()
    shell = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'  # where the browser wants them
    command = ["bash", "-c", shell, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", f"--window-size={wide},{high}"]
    process = subprocess.Popen(command, pass_fds=(their_in, their_out), stderr=subprocess.DEVNULL)
    os.close(their_in)
    os.close(their_out)
    try:
        yield Browser(our_out, our_in)
    finally:
        process.kill()
        process.wait()
        os.close(our_out)
        os.close(our_in)


def _pipe() -> tuple[int, int]:
    """Both ends, at numbers that are nobody's 3 or 4."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]
