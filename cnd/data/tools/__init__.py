"""Data from the command line: fetch, check, prepare."""
