"""How heavy reports are and how fast they open: every folder given (or found in `out/`), in a headless Chromium.

    python bench/report.py out/digits out/r56 ...       writes bench/results/report.json
    python bench/report.py --picture out/r56            draws docs/report.png, the head of that report

Opening is what the browser says of it: from the start of navigation until every chart is drawn, the median of `REPEATS`.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lilliput import report
from lilliput.measure import hardware, versions

ROOT = Path(__file__).parent.parent
REPEATS = 5
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --window-size=1280,900"
# Stands last on the page, so the charts are there; two frames later they are painted. An inner document that is still being
# written keeps the page from having been loaded, so that the browser does not end before.
MARK = """<script>
const hold = document.body.appendChild(document.createElement("iframe"));
hold.contentDocument.open();
requestAnimationFrame(() => requestAnimationFrame(() => {
  const drawings = document.querySelectorAll(".plot .main-svg").length;
  document.documentElement.dataset.opened = performance.now() + " " + drawings;
  hold.contentDocument.close();
}));</script>"""


def opened(browser: str, page: Path, profile: Path) -> tuple[float, int]:
    """Milliseconds until all is drawn, and how many drawings there are."""
    command = [browser, *FLAGS.split(), f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r'data-opened="([\d.]+) (\d+)"', done.stdout)
    if found is None:
        raise SystemExit(f"{page}: did not open: {done.stderr[-500:]}")
    return float(found[1]), int(found[2])


def pictured(browser: str, folder: Path) -> None:
    """The head of a report, as a laptop shows it."""
    page, to = report.render(folder).resolve(), ROOT / "docs/report.png"
    size = FLAGS.replace("1280,900", "1000,960").split()
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *size, "--hide-scrollbars", f"--user-data-dir={profile}", f"--screenshot={to}", page.as_uri()]
        subprocess.run(command, capture_output=True, timeout=300, check=True)
    print(to.relative_to(ROOT))


def measured(browser: str, folder: Path) -> dict[str, Any]:
    """One report, made anew."""
    path = report.render(folder)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        page.write_text(path.read_text(encoding="utf-8").replace("</body>", f"{MARK}</body>"), encoding="utf-8")
        runs = [opened(browser, page, Path(place) / "profile") for _ in range(REPEATS)]
    times = [ms for ms, _ in runs]
    return {
        "run": folder.name, "bytes": path.stat().st_size, "drawings": runs[0][1],
        "opens_ms": {"median": statistics.median(times), "longest": max(times), "repeats": REPEATS},
    }  # fmt: skip


def main() -> None:
    """Measure, or draw."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is on the path (on Debian: apt install chromium)")
    if sys.argv[1:2] == ["--picture"]:
        return pictured(browser, Path(sys.argv[2]))
    folders = [Path(name) for name in sys.argv[1:]] or sorted(p.parent for p in (ROOT / "out").glob("*/metrics.json"))
    if not folders:
        raise SystemExit("no run to report on; `make run` makes one")
    rows = []
    for folder in folders:
        rows.append(measured(browser, folder))
        row = rows[-1]
        print(f"{row['run']:24} {row['bytes'] / 1e6:.2f} MB, opens in {row['opens_ms']['median']:,.0f} ms", flush=True)
    version = subprocess.run([browser, "--version"], capture_output=True, text=True).stdout.strip()
    result = {"reports": rows, "browser": version, "hardware": hardware(), "versions": versions()}
    (ROOT / "bench/results/report.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
