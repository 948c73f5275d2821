"""Monitoring of training runs: the log, learning curves and detection of blank output."""
