"""Simulated vendor files for demonstrations and tests; never evidence."""
