"""Ways to find the cells of an image, one module each."""
