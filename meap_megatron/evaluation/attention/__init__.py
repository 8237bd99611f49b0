"""Suites that compare the attention of a MEAP model with that of an NTP model."""
