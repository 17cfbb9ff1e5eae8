"""Loss functions; no files, no logging."""
