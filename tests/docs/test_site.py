"""The built site as a reader meets it: no warning, no console error, no request off the machine, figures drawn."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'rl-scaling[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    env = os.environ | {"DOCS_EXECUTE": "1_first_look", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_pages_name_no_other_host_for_what_they_load(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in text and "fonts.googleapis" not in text


@pytest.mark.browser
def test_a_rendered_notebook_and_the_gallery_draw_their_figures(address):
    spec = importlib.util.spec_from_file_location("browser", ROOT / "tests" / "report" / "browser.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reason = module.missing()
    if reason:
        pytest.skip(reason)
    with module.Browser() as browser:
        for page, least in (("notebooks/1_first_look/", 1), ("gallery/", 7)):
            browser.open(address + page)
            figures = browser.run("return document.querySelectorAll('script[data-figure]').length")
            assert figures >= least
            browser.wait(f"document.querySelectorAll('.figure[data-drawn] .main-svg').length >= {figures}")
        assert browser.console() == []
        assert [url for url in browser.requests() if not url.startswith(address)] == []
