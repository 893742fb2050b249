"""How reconstructions are scored (sec. 4.3, 8.1): metrics, and the judges that some of them ask."""
