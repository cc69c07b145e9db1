"""The history service: stores all events with the visitor they belong to, and answers queries about them."""
