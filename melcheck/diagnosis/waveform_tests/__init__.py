"""What a waveform shows beside its reference.

direct          each looks for one kind of damage
fits            one filter, one curve or a moving gain, by least squares
other_weights   wrong weights, rounding, noise, or unknown
"""
