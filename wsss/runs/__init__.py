"""Folders of results: checkpoints, records, locks, journals."""
