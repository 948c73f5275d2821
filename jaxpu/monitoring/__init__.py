"""What a run records while it trains: log, curves and detection of blank output."""
