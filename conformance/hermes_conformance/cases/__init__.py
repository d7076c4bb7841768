"""Cases: the specifications, weights and inputs that laws are checked on."""
