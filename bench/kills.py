"""A search that is killed at random moments: what it loses, and whether it recommends what it would have.

    python bench/kills.py [--kills 20] [--seed 0] [--hours 0.08]      writes bench/results/kills.json

One `lilliput compress --hours` on the digits runs undisturbed. Another of the same command, with a cache of its own, is killed
(SIGKILL) again and again, each time a random time after it has begun to plan or to train, and then runs to its end. Both plan
by the same measured times, which the second is given, since no two measurements are alike: milliseconds, and the epochs that
hours left for the last rung. Recipe and front are compared; epochs are counted in both logs. Where the search ends before it
was killed so often, it says how often it was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

from lilliput.measure import hardware, versions

ROOT = Path(__file__).parent.parent
LOADING, WORKING = 10.0, 2.5  # seconds until the first epoch can be expected, and at most from there until the kill
BUDGET = ("--size", "30kB", "--latency", "0.9x", "--max-drop", "5")


class Place:
    """A folder for a run and its cache."""

    def __init__(self, folder: Path, hours: float) -> None:
        self.out, self.cache = folder / "out", folder / "cache"
        model = ("resnet8:channels=1", "--data", "digits", "--pretrain", "5")
        asked = (*BUDGET, "--hours", str(hours), "--out", str(self.out))
        self.command = [sys.executable, "-m", "lilliput", "compress", *model, *asked]

    def start(self) -> subprocess.Popen[bytes]:
        """The command, in a process group of its own."""
        env = {**os.environ, "LILLIPUT_CACHE": str(self.cache)}
        return subprocess.Popen(
            self.command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def times(self) -> Path:
        """What was measured of whole networks."""
        return self.out / "search/times.json"

    @property
    def trials(self) -> str:
        """Where its trials lie."""
        return f"sqlite:///{self.out / 'search/trials.db'}"

    def given(self, other: Place) -> None:
        """Take over what another run measured."""
        self.times.parent.mkdir(parents=True)
        shutil.copy(other.times, self.times)
        if (layers := other.cache / "layer_times").exists():
            shutil.copytree(layers, self.cache / "layer_times")
        (name,) = optuna.get_all_study_names(other.trials)
        left = optuna.load_study(study_name=name, storage=other.trials).user_attrs
        study = optuna.create_study(study_name=name, storage=self.trials, direction="maximize")
        if "last" in left:
            study.set_user_attr("last", left["last"])

    def ended(self) -> bool:
        """Whether the search has written its result."""
        return (self.out / "metrics.json").exists()

    def epochs(self) -> int:
        """How many epochs were ended, in all runs together."""
        log = self.out / "log.jsonl"
        return sum('"event": "epoch"' in line for line in log.read_text().splitlines()) if log.exists() else 0

    def said(self) -> dict[str, Any]:
        """The recommendation and the front, without anything that is measured anew at the end."""
        front = json.loads((self.out / "metrics.json").read_text())["front"]
        return {"recipe": (self.out / "recipe.yaml").read_text(), "front": front}


def killed(place: Place, draw: random.Random) -> float | None:
    """Start, kill, and say how long it ran; nothing where it ended before."""
    log, begun = place.out / "log.jsonl", time.monotonic()
    was = log.stat().st_mtime_ns if log.exists() else 0
    victim = place.start()
    while victim.poll() is None and (not log.exists() or log.stat().st_mtime_ns == was) and time.monotonic() < begun + LOADING:
        time.sleep(0.05)  # the first sign of work, if it comes: loading is nothing that could be lost
    try:
        victim.wait(draw.uniform(0, WORKING))
    except subprocess.TimeoutExpired:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        return None if place.ended() else time.monotonic() - begun
    return None


def main() -> None:
    """Both runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=0.08)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, other = Place(Path(name) / "whole", arguments.hours), Place(Path(name) / "killed", arguments.hours)
        begun = time.monotonic()
        if whole.start().wait() not in (0, 1) or not whole.ended():  # 1: a budget was missed
            raise SystemExit("the search that nobody disturbed did not end well")
        seconds = time.monotonic() - begun
        other.given(whole)
        ran: list[float] = []
        while len(ran) < arguments.kills and (after := killed(other, draw)) is not None:
            ran.append(after)
        ended = other.start().wait()
        same = {key: whole.said()[key] == other.said()[key] for key in ("recipe", "front")}
        result = {
            "command": " ".join(whole.command[2:-1]), "kills": len(ran), "seed": arguments.seed,
            "seconds_undisturbed": round(seconds, 1), "seconds_until_killed": [round(s, 1) for s in ran], "exit": ended,
            "same": same, "epochs_undisturbed": whole.epochs(), "epochs_killed": other.epochs(),
            "hardware": hardware(), "versions": versions(),
        }  # fmt: skip
    print(f"{len(ran)} kills: the same recipe {same['recipe']}, the same front {same['front']}")
    print(f"{result['epochs_undisturbed']} epochs ended undisturbed, {result['epochs_killed']} in all runs of the killed one")
    (ROOT / "bench/results/kills.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
