"""Every way to compute the loop against plain float32 on the CPU."""
