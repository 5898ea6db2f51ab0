"""The system's Chromium, for pictures and tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class NoChromiumError(RuntimeError):
    """There is no Chromium on this machine."""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Open the browser of RADSWEEP_CHROMIUM, or the first one that is installed.

    Raises:
        NoChromiumError: there is none; says what to do.
    """
    asked = os.environ.get("RADSWEEP_CHROMIUM")
    path = next(filter(None, map(shutil.which, [asked] if asked else PROGRAMS)), None)
    if path is None:
        raise NoChromiumError(
            f"no {asked or 'Chromium'} on this machine: apt-get install chromium, or set RADSWEEP_CHROMIUM to its path"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that containers and root do not give; the pages are ours.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
