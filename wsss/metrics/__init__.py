"""Figures of merit: images, cells, masks."""
