"""ecgprep: vendor ECG XML files and a manifest in, one de-identified Zarr store out."""

__version__ = "0.1.0"
