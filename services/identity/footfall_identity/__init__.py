"""Identity: who visitors are, live, and which contacts they are."""
