"""Cells of an image: label maps, crops, scores from class activation maps."""
