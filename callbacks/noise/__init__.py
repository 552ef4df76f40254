"""Noise, and the steps that add it."""
