"""What runs leave behind: trial files, records, MLflow."""
