"""How the machine computes: devices, threads, processes that share a batch."""
