"""What `ssd data review` does: annotations that a trained detector disagrees with, ranked."""
