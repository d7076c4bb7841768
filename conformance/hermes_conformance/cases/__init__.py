"""Cases: specifications, weights and inputs that the laws are tried on."""
