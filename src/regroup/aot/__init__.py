"""Ahead of time: a network as object code for another machine, without Python. See `export.export_object`."""
