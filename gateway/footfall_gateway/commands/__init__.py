"""What `footfall-gateway` does besides serving."""
