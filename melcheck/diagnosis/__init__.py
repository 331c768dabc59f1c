"""Why is this mel or this waveform wrong? One module for each public question."""
