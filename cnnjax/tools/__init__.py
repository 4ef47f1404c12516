"""Commands that look, and train nothing: show and scan data, plot rates, stand in for data.

On top of the house: it may touch every room, and none touches it.
"""
