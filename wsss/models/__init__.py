"""Networks; no files, no logging."""
