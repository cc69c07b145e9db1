"""The command `footfall-import`: imports visits from another server or a file, and compares two servers.

No other folder imports from it.
"""
