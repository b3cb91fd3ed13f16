"""Headless Chromium, bounded in time, with no network at all."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_S = 60
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
)
_CONSOLE = re.compile(r"CONSOLE[^\]]*\] (.*)")


@dataclass(frozen=True)
class Chromium:
    """`home`: for its profile, so that runs share nothing."""

    path: str
    home: Path

    def dom(self, page: Path) -> str:
        """Of the page once it has been loaded; fails the test where its console says anything."""
        return self._run(f"file://{page}", "--dump-dom")

    def screenshot(self, page: Path, to: Path, width: int, height: int, dark: bool = False) -> Path:
        flags = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
        self._run(f"file://{page}", f"--screenshot={to}", f"--window-size={width},{height}", *flags)
        return to

    def pdf(self, page: Path, to: Path) -> Path:
        self._run(f"file://{page}", f"--print-to-pdf={to}", "--no-pdf-header-footer")
        return to

    def _run(self, url: str, *flags: str) -> str:
        command = [self.path, *_FLAGS, f"--user-data-dir={self.home}", *flags, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        said = _CONSOLE.findall(done.stderr)
        assert not said, f"the console of the page says: {said}"
        return done.stdout


def installed(home: Path) -> Chromium:
    """Skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium): the report is opened in a real browser")
    return Chromium(found, home)
