"""What batches hold, and what of it a network saw."""
