"""Look at a page in a headless browser, where there is one: how wide it is, and what sticks out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

BROWSER_PATH = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
_BROWSER_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--allow-file-access-from-files", "--hide-scrollbars",
)  # fmt: skip
_MEASURING_PAGE = """<!doctype html><meta charset="utf-8"><body><pre id="found"></pre><script>
const widths = %s, found = [];
const scrolls = (one, frame) => {
  for (let up = one.parentElement; up; up = up.parentElement) {
    const overflow = frame.contentWindow.getComputedStyle(up).overflowX;
    if (overflow !== "visible") return true;
  }
  return false;
};
const next = () => {
  const width = widths.shift();
  if (!width) { document.getElementById("found").textContent = JSON.stringify(found); return; }
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement, out = [], thin = [];
    const height = root.scrollHeight;  // as a reader opens the page, before anything is unfolded
    for (const one of page.querySelectorAll("details")) one.open = true;
    for (const one of page.body.querySelectorAll("*")) {
      const box = one.getBoundingClientRect(), text = one.textContent.trim().slice(0, 60);
      if (box.width && box.right > width + 1 && !scrolls(one, frame)) out.push(`${one.tagName}: ${text}`);
      const cell = /^(TD|TH|DT|DD)$/.test(one.tagName) && text.length > 12;
      if (cell && box.height && box.width < 40) thin.push(`${text}: ${Math.round(box.width)} px`);
    }
    const size = {page: root.scrollWidth, height, unfolded: root.scrollHeight};
    found.push({width, ...size, out: out.slice(0, 8), thin: thin.slice(0, 8)});
    frame.remove();
    next();
  };
  frame.src = %s;
  document.body.append(frame);
};
next();
</script>"""


def measure_page(page: Path, widths: tuple[int, ...] = (390, 768, 1280)) -> list[dict[str, Any]]:
    """The page at each width: its width, its heights folded and unfolded, what sticks out, narrow cells."""
    with tempfile.TemporaryDirectory() as folder:
        looker = Path(folder, "look.html")
        looker.write_text(
            _MEASURING_PAGE % (json.dumps(widths), json.dumps(page.resolve().as_uri())), encoding="utf-8"
        )
        command = [
            str(BROWSER_PATH),
            *_BROWSER_FLAGS,
            f"--user-data-dir={folder}/profile",
            "--virtual-time-budget=20000",
        ]
        done = subprocess.run(
            [*command, "--dump-dom", looker.as_uri()], capture_output=True, timeout=120, check=True
        )
    shown = re.search(r'<pre id="found">(.*?)</pre>', done.stdout.decode("utf-8", "replace"), re.DOTALL)
    assert shown is not None, done.stderr.decode("utf-8", "replace")[-2000:]
    text = shown[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    found: list[dict[str, Any]] = json.loads(text)
    return found


def save_screenshot(page: Path, picture: Path, width: int, height: int = 2400) -> None:
    """A screenshot, for people."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(BROWSER_PATH),
            *_BROWSER_FLAGS,
            f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}",
        ]
        command += [f"--screenshot={picture}", page.resolve().as_uri()]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
