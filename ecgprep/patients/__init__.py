"""Patients: the manifest, covariates, splits and their registry, duplicates, confounding."""
