"""footfall-import: brings visits of another server, or a file, into history, and compares two servers."""
