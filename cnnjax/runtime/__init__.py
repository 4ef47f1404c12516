"""The machine that a command runs on: devices, processes, signals, console, files, compiling.

The ground of the house: it touches no other room.
"""
