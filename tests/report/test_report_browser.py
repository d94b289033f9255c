"""The page in a real browser, headless: nothing is asked for, nothing goes wrong, charts are drawn, tables sort."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_up_run
import pytest

from lilliput import report
from lilliput.report import weights

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

# Stands before everything else on the page and notes what a reader would find in the console.
TRAP = """<script>
window.found = {wrong: []};
addEventListener("error", (e) => found.wrong.push("error: " + (e.message || e.target.outerHTML)), true);
addEventListener("unhandledrejection", (e) => found.wrong.push("promise: " + e.reason));
document.addEventListener("securitypolicyviolation", (e) => found.wrong.push("policy: " + e.blockedURI));
for (const name of ["error", "warn"]) console[name] = (...text) => found.wrong.push(name + ": " + text.join(" "));
</script>"""

# Stands behind everything: what a reader does, and what comes of it.
READER = """<script>
const column = (n) => [...document.querySelectorAll("#tried tbody tr")].map((row) => row.cells[n].innerText);
const sorted = (n) => (document.querySelectorAll("#tried thead th")[n].querySelector("button").click(), column(n));
const front = document.querySelector("#front .plot"), list = (selector) => [...document.querySelectorAll(selector)];
const press = (plot, key) => plot.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const said = (plot) => plot.parentElement.querySelector("[aria-live]").textContent;
const layers = document.querySelector("#layers .plot");
const heights = () => layers.data[0].y ?? layers.data[0].x;
found.charts = [...document.querySelectorAll(".plot")].map((plot) => plot.querySelectorAll(".main-svg").length);
found.points = [...document.querySelectorAll("#tried .scatterlayer .point")].length;
found.macs = heights();
found.front = {candidates: list("#front .scatterlayer .point").length, lines: list("#front .scatterlayer .js-line").length};
list("#front .choices button")[1].click();
found.front.ratios = front.data.flatMap((trace) => (trace.mode === "lines" ? trace.x : []));
press(front, "ArrowRight"); press(front, "ArrowRight"); press(front, "ArrowLeft");
found.read = {front: said(front), shown: front.querySelectorAll(".hoverlayer .hovertext").length};
press(layers, "End"); found.read.layers = said(layers);
const curve = document.querySelector("#training .plot");
press(curve, "Home"); found.read.curve = said(curve);
const wide = (element) => element.getBoundingClientRect().width;
found.panels = list(".panels svg").map((svg) => Math.round(wide(svg) * svg.querySelectorAll("path").length));
found.bars = list(".band .bar").map((bar) => [...bar.children].reduce((sum, i) => sum + wide(i), 0) / wide(bar));
found.stuck = list("button, a[href], summary, [tabindex]").filter((e) => e.tabIndex < 0).length;
found.unnamed = list("button, a[href], summary, [role=img], [role=group], [role=region]")
  .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label"))).length;
found.ids = list("[id]").map((e) => e.id);
document.querySelectorAll("#layers .choices button")[3].click();
found.bits = heights();
found.sorted = {ratio: sorted(2), back: sorted(2), accuracy: sorted(4), name: sorted(0)};
found.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
found.ink = getComputedStyle(document.body).backgroundColor;
found.narrow = matchMedia("(max-width: 40rem)").matches;
found.wide = document.documentElement.scrollWidth > innerWidth;
dispatchEvent(new Event("beforeprint"));
found.printed = {width: layers._fullLayout.width, ink: getComputedStyle(document.body).backgroundColor};
dispatchEvent(new Event("afterprint"));
document.documentElement.dataset.found = JSON.stringify(found);
</script>"""


# The page as narrow as a phone, which a window of the browser cannot be; what it found goes up to the root.
PHONE = """<html><body><iframe style="width: 390px; height: 844px; border: 0"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  document.documentElement.dataset.found = frame.contentDocument.documentElement.dataset.found;
  frame.remove();
};
frame.srcdoc = PAGE;
</script></body></html>"""


class Found(HTMLParser):
    """What `READER` wrote on the page's root."""

    value: Any = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self.value = json.loads(dict(attrs).get("data-found") or "null")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose names are HTML, with a reader in it."""
    if BROWSER is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path (on Debian: apt install chromium)")
    folder = made_up_run.write(tmp_path_factory.mktemp("run"))
    details = made_up_run.details()
    details["model"] = details["classes"][0] = "<img src=x onerror=alert(1)>"
    for side in details["layers"].values():
        side[0]["name"] = details["model"]
    (folder / "details.json").write_text(json.dumps(details))
    path = report.render(folder)
    text = path.read_text(encoding="utf-8").replace("<head>", f"<head>{TRAP}", 1)
    path.write_text(text.replace("</body>", f"{READER}</body>"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(page: Path) -> dict[str, Any]:
    """What the reader finds on a laptop in the dark."""
    return dump(page, page.parent / "profile", dark=True)


@pytest.fixture(scope="module")
def phone(page: Path) -> dict[str, Any]:
    """What it finds on a phone by day."""
    outer = page.with_name("phone.html")
    inner = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    outer.write_text(PHONE.replace("PAGE", inner), encoding="utf-8")
    return dump(outer, page.parent / "phone", dark=False)


def dump(path: Path, profile: Path, dark: bool) -> dict[str, Any]:
    """Open a page in the browser and read what it found."""
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --window-size=1000,900"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [str(BROWSER), *flags.split(), f"--user-data-dir={profile}", scheme]
    done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=600)
    reader = Found()
    reader.feed(done.stdout)
    if reader.value is None:
        pytest.fail(f"the page did not run to its end: {done.stderr[-2000:]}")
    return dict(reader.value)


def test_nothing_goes_wrong(found: dict[str, Any]) -> None:
    assert found["wrong"] == []


def test_nothing_is_asked_for(found: dict[str, Any]) -> None:
    assert found["requests"] == []


def test_every_chart_is_drawn(found: dict[str, Any]) -> None:
    assert len(found["charts"]) == 6 and all(found["charts"])
    assert found["points"] == len(made_up_run.tried())


def test_small_pictures_have_room_and_bars_are_full(found: dict[str, Any]) -> None:
    assert len(found["panels"]) == len(made_up_run.histograms("baseline")) + len(
        {row["layer"] for row in made_up_run.sensitivity()}
    )
    folded = len(made_up_run.histograms("baseline")) - weights.SHOWN
    assert sum(width > 100 for width in found["panels"]) >= len(found["panels"]) - folded
    assert len(found["bars"]) == 2 and all(abs(share - 1) < 0.02 for share in found["bars"])


def test_the_front_is_drawn_with_what_it_leaves_behind(found: dict[str, Any]) -> None:
    front = made_up_run.front()
    assert found["front"]["candidates"] == len(front) + 1 and found["front"]["lines"] == 1
    assert found["front"]["ratios"] == [0.29, 0.43, 0.44]


def test_keys_read_every_chart_aloud(found: dict[str, Any]) -> None:
    assert found["read"]["front"].startswith("1 of 7: ") and found["read"]["shown"] == 1
    assert "factors 0.4, int8" in found["read"]["front"] and "beaten by another" in found["read"]["front"]
    assert "linear" in found["read"]["layers"]
    assert found["read"]["curve"].startswith("1 of 12: 1: training split ")


def test_everything_can_be_reached_and_has_a_name(found: dict[str, Any]) -> None:
    assert found["stuck"] == found["unnamed"] == 0
    assert len(found["ids"]) == len(set(found["ids"]))


def test_a_button_shows_another_quantity(found: dict[str, Any]) -> None:
    assert found["macs"][0] == 442_368 and set(found["bits"]) == {32}


def test_tables_sort_by_a_click(found: dict[str, Any]) -> None:
    ratios, back = ([float(text.rstrip("x")) for text in found["sorted"][way]] for way in ("ratio", "back"))
    assert ratios == sorted(ratios, reverse=True) and back == sorted(back) and len(set(back)) > 1
    measured = [text != "—" for text in found["sorted"]["accuracy"]]
    assert measured == sorted(measured, reverse=True) and any(measured)
    assert found["sorted"]["name"][-1] == "unchanged"


def test_a_phone_by_day_shows_all_of_it(found: dict[str, Any], phone: dict[str, Any]) -> None:
    assert phone["narrow"] and not found["narrow"] and phone["wrong"] == phone["requests"] == []
    assert len(phone["charts"]) == len(found["charts"]) and all(phone["charts"]) and not phone["wide"]
    assert phone["front"] == found["front"] and phone["sorted"] == found["sorted"]
    light, dark = (min(int(part) for part in re.findall(r"\d+", each["ink"])[:3]) for each in (phone, found))
    assert light > 200 and dark < 60


def test_the_page_is_as_wide_as_the_screen_and_prints_on_white(found: dict[str, Any]) -> None:
    assert not found["wide"]
    assert found["printed"] == {"width": 690, "ink": "rgb(255, 255, 255)"}
