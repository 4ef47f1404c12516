"""Commands that train nothing: they show and scan data, plot rates, stand in for data.

This room may import every other one; none imports it.
"""
