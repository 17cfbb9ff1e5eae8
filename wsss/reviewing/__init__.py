"""Labelling cells by hand in a local web page: which cells to ask about, what was answered, and the page itself."""
