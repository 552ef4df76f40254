"""The field's published protocols, each one command: the specificity ladder and segmentation for classification."""
