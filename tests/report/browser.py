"""Headless Chromium through chromedriver's HTTP interface: only the standard library and Debian's two packages."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-proxy-server",
]


def missing() -> str | None:
    """Why there is no browser here, or None."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not found: apt-get install -y chromium chromium-driver" if lacking else None


class Browser:
    """One headless window; a fresh profile, ended with the block."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self._profile = tempfile.mkdtemp(prefix="profile-")
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._base = f"http://127.0.0.1:{self._port()}"
        flags = [*FLAGS, f"--user-data-dir={self._profile}", f"--window-size={width},{height}"]
        if dark:
            flags.append("--force-dark-mode")
        wanted = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": flags},
        }
        try:
            self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:  # nothing that was started stays behind
            self._driver.kill()
            self._driver.wait(10)
            shutil.rmtree(self._profile, ignore_errors=True)
            raise

    def open(self, url: str) -> None:
        self._do("POST", "/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        return self._do("POST", "/execute/sync", {"script": script, "args": list(args)})

    def wait(self, condition: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.run(f"return Boolean({condition})"):
                return
            time.sleep(0.1)
        raise AssertionError(f"not true within {seconds:g} s: {condition}; console: {self.console()}")

    def console(self) -> list[str]:
        """Warnings and errors of the console so far."""
        entries = self._do("POST", "/se/log", {"type": "browser"})
        return [e["message"] for e in entries if e["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """URLs asked for beyond files, data and the start page of the browser itself."""
        out = []
        for entry in self._do("POST", "/se/log", {"type": "performance"}):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:", "about:", "chrome:")):
                    out.append(url)
        return out

    def devtools(self, command: str, **params: Any) -> Any:
        return self._do("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def screenshot(self, path: Path, *, full: bool = False, selector: str | None = None) -> Path:
        options: dict[str, Any] = {"format": "png"}
        if selector:
            box = self.run(
                "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
                "return [r.left + scrollX, r.top + scrollY, r.width, r.height]",
                selector,
            )
            options |= {
                "captureBeyondViewport": True,
                "clip": dict(zip(("x", "y", "width", "height"), box)) | {"scale": 1},
            }
        elif full:
            size = self.run("return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
            options |= {
                "captureBeyondViewport": True,
                "clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1},
            }
        path.write_bytes(base64.b64decode(self.devtools("Page.captureScreenshot", **options)["data"]))
        return path

    def close(self) -> None:
        try:
            self._do("DELETE", "", None)
        finally:
            self._driver.terminate()
            self._driver.wait(10)
            shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if "successfully on port" in line:
                return int(line.rstrip().rstrip(".").rsplit(" ", 1)[1])
        raise RuntimeError("chromedriver did not start")

    def _do(self, method: str, path: str, body: Any) -> Any:
        return self._call(method, f"/session/{self._session}{path}", body)

    def _call(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]
