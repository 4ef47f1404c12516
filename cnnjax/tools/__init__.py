"""Commands that look and train nothing: show and scan data, plot rates, stand in for data.

This room may import every other one; none imports it.
"""
