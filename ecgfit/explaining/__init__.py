"""Where in the beat a run looks."""
