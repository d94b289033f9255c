"""Looking at networks, never touching them: counts, memory, latency, energy, and what theory says of them."""

from lilliput.measure.counts import Layer, Profile, profile
from lilliput.measure.energy import Energy, energy
from lilliput.measure.exports import SESSIONS, time_exports
from lilliput.measure.hardware import hardware, versions
from lilliput.measure.latency import Latency, Ratio, interleave, session, time_files, time_modules
from lilliput.measure.layer_times import LayerTime, layer_times
from lilliput.measure.stages import Stage, Stages, stages

__all__ = [
    "SESSIONS",
    "Energy",
    "Latency",
    "Layer",
    "LayerTime",
    "Profile",
    "Ratio",
    "Stage",
    "Stages",
    "energy",
    "hardware",
    "interleave",
    "layer_times",
    "profile",
    "session",
    "stages",
    "time_exports",
    "time_files",
    "time_modules",
    "versions",
]
