"""The classifier on cell features, learnt from image labels."""
