"""Load runs of the whole suite on one machine, and the floor they are compared with."""
