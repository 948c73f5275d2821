"""Estimation of the class prior and of the gain of positives from prepared data, without stems and without a network."""
