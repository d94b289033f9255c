"""How long a newcomer needs from clone to first report, by copying lines of the README alone.

    python bench/newcomer.py        writes bench/results/newcomer.json

Clones what is committed here into an empty folder, with an empty cache of this package, and runs the README's first command
there; the environment is set up by that command, from packages as pip finds them. Run it alone on the machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lilliput.measure import hardware, versions

ROOT = Path(__file__).parent.parent


def first_command(readme: str) -> str:
    """The first indented line: what stands there to be copied."""
    found = re.search(r"^    (\S.*?)(?:\s+#.*)?$", readme, re.MULTILINE)
    assert found is not None
    return found[1]


def main() -> None:
    """Clone, run, look for the report."""
    with tempfile.TemporaryDirectory() as folder:
        place, begun = Path(folder) / "clone", time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(place)], check=True)
        command = first_command((place / "README.md").read_text())
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("LILLIPUT_", "PYTHON", "VIRTUAL_ENV", "OMP_"))}
        done = subprocess.run(shlex.split(command), cwd=place, env={**clean, "LILLIPUT_CACHE": f"{folder}/cache"})
        seconds = time.perf_counter() - begun
        reports = sorted(path.relative_to(place).as_posix() for path in (place / "out").rglob("report.html"))
    if done.returncode or not reports:
        sys.exit(f"`{command}` ended with {done.returncode} and left {len(reports)} reports")
    print(f"{command}: {reports[0]} after {seconds:.0f} s")
    result = {
        "command": command,
        "seconds": round(seconds, 1),
        "reports": reports,
        "hardware": hardware(),
        "versions": versions(),
    }
    (ROOT / "bench/results/newcomer.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
