"""Models by name: a configuration that needs no torch, and the network, in one folder each."""
