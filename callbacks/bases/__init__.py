"""What operators share: the order of a run, the noisy phase, losses of their own."""
