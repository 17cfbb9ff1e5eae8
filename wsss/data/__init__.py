"""Data sets: reading planes, the store, labels, folds, sampling, augmentation, synthetic fields."""

import os

# albumentations asks the package index for its latest version when it is imported, unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
