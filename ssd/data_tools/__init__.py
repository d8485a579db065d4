"""What the commands of `ssd data` do."""
