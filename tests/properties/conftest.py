"""Profiles of Hypothesis, for tests of properties and of files that are damaged.

The default is the same examples in every run. ``pytest tests/properties --hypothesis-profile long``
draws others, many more, at random: it is for finding, not for passing.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Time says nothing here: the machine may be busy, and kernels for GPUs are interpreted.
_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}

settings.register_profile("quick", max_examples=100, derandomize=True, print_blob=False, **_COMMON)
settings.register_profile("long", max_examples=2500, print_blob=True, **_COMMON)
# Where --hypothesis-profile names one, the plugin has it loaded already, or does so hereafter.
if settings.get_current_profile_name() == "default":
    settings.load_profile("quick")
