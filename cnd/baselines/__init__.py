"""Decoders that CnD is compared with; each gives conditions of the same frozen generator."""
