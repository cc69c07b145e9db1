"""The command `footfall-import`: brings visits from another server or a file, and compares two servers.

Nothing imports from it.
"""
