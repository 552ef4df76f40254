"""What has to hold for a promise, and refusals where it does not."""
