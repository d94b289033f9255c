"""Settings of every test: property tests are never timed, and `make fuzz` asks for many more examples."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

collect_ignore = ["fuzz_load.py"]  # for atheris, which is not installed for the tests

settings.register_profile("laws", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("laws"), max_examples=20_000)
settings.load_profile("laws")
