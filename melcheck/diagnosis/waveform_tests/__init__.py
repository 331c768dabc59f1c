"""The engine of `explain_waveform`: what was done to this waveform."""
