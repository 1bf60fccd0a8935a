"""Measurements of a whole hub: real processes, real servers, on loopback.  ``python -m loadtest.NAME --help``."""
