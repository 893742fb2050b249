"""Reports computed from the kept records of a sweep. Never loads torch."""
