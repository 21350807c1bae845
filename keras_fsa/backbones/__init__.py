"""Backbones: from a picture to the features of stages 4 and 5."""
