"""The judges F of Algorithm 1."""
