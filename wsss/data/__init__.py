"""Data sets: reading planes, the store, labels, folds, sampling, augmentation, synthetic fields."""
