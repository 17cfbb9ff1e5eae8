"""Parts of bench_labels.py: which methods there are, what has to run for them, and the table."""
