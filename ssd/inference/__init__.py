"""Detection with a trained model: checkpoint and image files in, detections and drawings out."""
