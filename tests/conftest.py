"""Settings of every test: property tests are never timed, and take the same examples every time, so that only a change
can make a green project red. `make fuzz` takes many more, and others each time."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

collect_ignore = ["fuzz_load.py"]  # for atheris, which is not installed for the tests

settings.register_profile("laws", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("laws"), derandomize=False, print_blob=True, max_examples=20_000)
settings.load_profile("laws")
