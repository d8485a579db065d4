"""What all parts of the detector use: errors, console, files, names. Imports the standard library only."""
