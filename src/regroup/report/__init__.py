"""Data to tables, plots and HTML."""
