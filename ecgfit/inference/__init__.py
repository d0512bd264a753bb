"""Apply a trained run: logits, predictions, exported models."""
