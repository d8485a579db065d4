"""What training and evaluation write for people: log, tables, plots, images and summary.html."""
