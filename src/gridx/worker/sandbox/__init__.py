"""How programs run apart from the machine: one backend a module, all behind `base`."""
