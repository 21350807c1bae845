"""Backbones: from an image to the features of stages 4 and 5."""
