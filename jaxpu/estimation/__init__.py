"""Numbers of an objective that are estimated from data without stems: class prior and gain of the positives."""
