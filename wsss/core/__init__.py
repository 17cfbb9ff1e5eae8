"""The bottom layer: class lists, options, files, checks. Imports nothing else of wsss, and no torch at import."""
