"""The servers a person would pick instead, with the workload of ``steady``: ``python -m loadtest.peers NAME``."""
