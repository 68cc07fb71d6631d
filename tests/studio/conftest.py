"""Lets these tests say ``from serving import Served``, and gives them a studio and a browser."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

_FOLDER = str(Path(__file__).resolve().parent)
if _FOLDER not in sys.path:
    sys.path.insert(0, _FOLDER)

from serving import Served, Watched, make_studio  # noqa: E402


@pytest.fixture
def folders(tmp_path):
    for name in ("runs", "clips", "state", "loras"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def served(folders):
    with Served(make_studio(folders)) as found:
        yield found


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium; a machine without it fails."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "a browser is needed: apt-get install chromium"
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=arguments)
        yield found
        found.close()


@pytest.fixture
def watch(browser):
    opened = []

    def open_one(address, **options):
        opened.append(Watched(browser, address, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
