"""A decoder, a metric and a data source, each in a file of its own."""
