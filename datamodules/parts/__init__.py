"""Which images are for training, validation and test, and which of them are to be forgotten."""
