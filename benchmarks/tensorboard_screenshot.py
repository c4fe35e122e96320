"""Serve TensorBoard, open it in headless Chromium and keep what it shows.

    python benchmarks/tensorboard_screenshot.py --logdir lightning_logs --tab custom_scalars --output shot.png

Needs chromium and chromedriver (Debian: `apt-get install chromium-driver`); speaks WebDriver to it over plain HTTP.
"""

import argparse
import base64
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

TABS = ("custom_scalars", "hparams", "timeseries", "scalars", "images", "graphs", "text", "histograms")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
)
# The page is made of web components: text and elements sit in shadow roots, which `querySelector` does not enter.
WALK = """
const all = [];
const walk = node => {
  for (const child of node.children || []) {
    all.push(child);
    if (child.shadowRoot) walk(child.shadowRoot);
    walk(child);
  }
};
walk(document);
"""
TEXT = (
    WALK
    + "return all.flatMap(e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()))"
    + (".filter(Boolean).join('\\n');")
)
# Shows the legend of every chart and makes the first one large; doing it again changes nothing.
UNFOLD = (
    WALK
    + """
for (const card of all.filter(e => e.localName === 'tf-custom-scalar-multi-line-chart-card')) {
  if (card.shadowRoot.querySelector('iron-collapse.iron-collapse-closed'))
    card.shadowRoot.querySelector('.toggle-matches-button').click();
}
const first = all.find(e => e.localName === 'tf-custom-scalar-multi-line-chart-card');
if (first && !first.enlarged) {
  first.enlarged = true;
  first.shadowRoot.querySelector('#buttons [icon=fullscreen]').click();
}
"""
)
# Ticks the boxes of the HParams tab whose names are wanted, and no others.
TICK = (
    WALK
    + """
const wanted = new Set(arguments[0]);
for (const box of all.filter(e => /(hparam|metric)-checkbox/.test(e.className)))
  if (box.checked !== wanted.has(box.textContent.trim())) box.click();
"""
)


class Browser:
    """A Chromium of one's own, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2/)."""

    def __init__(self, port: int, session: str) -> None:
        self._base = f"http://127.0.0.1:{port}/session/{session}"

    def open(self, url: str) -> None:
        _ask(f"{self._base}/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        return _ask(f"{self._base}/execute/sync", {"script": script, "args": list(args)})

    def text(self) -> str:
        return str(self.run(TEXT))

    def wait_for(self, wanted: tuple[str, ...], timeout: float = 90.0) -> str:
        """Wait until the page shows all of `wanted` and has stopped changing; return its text.

        Raises:
            TimeoutError: It never did; the message says what is lacking.
        """
        before, calm, end = "", 0, time.monotonic() + timeout
        while time.monotonic() < end:
            self.run(UNFOLD)
            now = self.text()
            calm = calm + 1 if now == before and all(word in now for word in wanted) else 0
            if calm >= 4:
                return now
            before = now
            time.sleep(0.5)
        raise TimeoutError(f"TensorBoard did not show {[w for w in wanted if w not in before]}; it shows:\n{before}")

    def png(self) -> bytes:
        return base64.b64decode(_ask(f"{self._base}/screenshot"))


def _ask(url: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urlopen(request, timeout=120) as answer:
        return json.load(answer)["value"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_served(url: str, process: subprocess.Popen[bytes], timeout: float = 90.0) -> None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} before it answered.")
        try:
            with urlopen(url, timeout=10):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(f"Nothing answers at {url} after {timeout:g} s.")


@contextmanager
def _process(argv: list[str], url: str) -> Iterator[None]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_served(url, process)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Serve `logdir` on 127.0.0.1 and yield the address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # `tensorboard.main` alone, and no data server: a child of its own would outlive a killed parent.
    argv = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", f"--port={port}", "--host=127.0.0.1"]
    with _process([*argv, "--load_fast=false", "--reload_interval=5"], f"{url}/data/environment"):
        yield url


@contextmanager
def browser(width: int = 1400, height: int = 900) -> Iterator[Browser]:
    """Yield a fresh headless Chromium.

    Raises:
        FileNotFoundError: chromium or chromedriver is not installed.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        raise FileNotFoundError("chromium and chromedriver are needed (Debian: apt-get install chromium-driver).")
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        args = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        wanted = {"goog:chromeOptions": {"binary": chromium, "args": args}}
        with _process([driver, f"--port={port}"], f"http://127.0.0.1:{port}/status"):
            base = f"http://127.0.0.1:{port}/session"
            session = _ask(base, {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            try:
                yield Browser(port, session)
            finally:
                _ask(f"{base}/{session}", method="DELETE")


def shot(
    logdir: Path,
    tab: str,
    output: Path | None = None,
    *,
    wanted: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
    **size: int,
) -> str:
    """Open a tab, wait until it shows `wanted`, save a PNG if asked to, and return the text on the page.

    Args:
        logdir: The folder with the runs.
        tab: One of `TABS`.
        output: Where the PNG goes, if anywhere.
        wanted: Texts that tell that the page is there.
        columns: Columns of the HParams tab to show instead of the first ones.
        **size: `width` and `height` of the window in pixels.
    """
    with tensorboard(logdir) as url, browser(**size) as chromium:
        chromium.open(f"{url}/#{tab}")
        text = chromium.wait_for(wanted)
        if columns:
            chromium.run(TICK, columns)
            text = chromium.wait_for(wanted)
        time.sleep(1.0)  # lines are drawn a moment after their legend
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(chromium.png())
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logdir", type=Path, required=True, help="folder that holds the runs")
    parser.add_argument("--tab", choices=TABS, default="custom_scalars", help="which dashboard")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--wait-for", nargs="*", default=[], metavar="TEXT", help="texts the page must show first")
    parser.add_argument("--columns", nargs="*", default=[], metavar="NAME", help="columns to show in the HParams tab")
    parser.add_argument("--width", type=int, default=1400, help="of the window, in pixels")
    parser.add_argument("--height", type=int, default=900, help="of the window, in pixels")
    args = parser.parse_args()
    default = {"custom_scalars": ("loss",), "hparams": ("hp/val_loss",)}.get(args.tab, ())
    shot(
        args.logdir,
        args.tab,
        args.output,
        wanted=tuple(args.wait_for) or default,
        columns=tuple(args.columns),
        width=args.width,
        height=args.height,
    )
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
