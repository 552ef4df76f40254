"""The field's published protocols, each one command: specificity ladder, segmentation for classification, trap sets."""
