"""What this machine can run, what is wrong with it, and what to type; what an error message means."""
