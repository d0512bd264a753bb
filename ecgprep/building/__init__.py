"""From a manifest and vendor files to a published store."""
