"""From a store to batches and to what a network sees."""
