"""The engine of `diagnose`: which recipe made this mel of this waveform."""
