"""From a trained network to tables."""
