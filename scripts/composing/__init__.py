"""Fields put together for benchmarks and for training the segmenter that is shipped: real cells, scenes, salt."""
