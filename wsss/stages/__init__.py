"""The stages, read from top to bottom: what each command does."""
