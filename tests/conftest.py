"""Settings of all tests: a busy machine makes a property test slow, not wrong."""

from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
