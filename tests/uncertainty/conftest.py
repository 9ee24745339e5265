"""Property tests that never fail by the clock, and draw the same examples every time."""

from hypothesis import HealthCheck, settings

settings.register_profile("candor", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("candor")
