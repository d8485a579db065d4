"""From image files to batches: decoding, worker processes, packing."""
