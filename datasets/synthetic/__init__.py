"""The embedded synthetic videos."""
