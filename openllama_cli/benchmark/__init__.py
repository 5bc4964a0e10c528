"""How fast a model runs here: every figure from a fresh process, as a command line has it, rivals in turn."""
