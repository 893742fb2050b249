"""Scores of reconstructions (sec. 4.3, 8.1)."""
