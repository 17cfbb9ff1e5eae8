"""The bottom layer: class lists, options, files, checks. Imports nothing else of wsss, and no torch at import."""

import os
import sys

__version__ = "0.2.0"
"""As in pyproject.toml."""

# Text is a type of its own, as in pandas 3: pandas 2 keeps objects, and makes 'None' of what is missing.
os.environ.setdefault("PANDAS_FUTURE_INFER_STRING", "1")
if (pandas := sys.modules.get("pandas")) and pandas.__version__ < "3":  # imported before, as in notebooks
    pandas.options.future.infer_string = True
