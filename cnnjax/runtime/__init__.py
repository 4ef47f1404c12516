"""The machine that a command runs on: devices, processes, signals, console, files, compiling.

It imports no other room.
"""
