"""Metrics and their intervals, calibration, thresholds, curves: NumPy and SciPy only."""
