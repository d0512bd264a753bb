"""From folders of vendor files to a table with a line a file: who, when, measurements, status."""
