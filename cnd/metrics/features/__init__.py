"""Scores by what a network sees in the images: 2-way identification, correlation distance, retrieval."""
