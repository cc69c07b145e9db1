"""The identity service: who visitors are, live; identities, contacts and the links between them."""
