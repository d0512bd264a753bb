"""Evaluate runs, and compare them."""
