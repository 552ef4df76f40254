"""Brushes: skin, lesions, and what gets photographed with them."""
