"""What every HTTP API of the gateway is made of."""
