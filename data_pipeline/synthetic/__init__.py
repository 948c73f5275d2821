"""A small multitrack corpus that is a function of its seed."""
