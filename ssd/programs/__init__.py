"""The commands of the program `ssd`, a file for each; `ssd train` is ssd/train.py. Torch is imported when they run."""
