"""Statistics about a study: how many patients it needs, when events happen, how labels agree."""
