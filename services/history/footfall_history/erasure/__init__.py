"""The erasure of a person, and the search for what is left of one."""
