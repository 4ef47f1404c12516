"""The machine that a command runs on: devices, processes, signals, console, files, compiling.

This room imports no other.
"""
