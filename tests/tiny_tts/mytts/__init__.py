"""A text-to-speech trainer, as far as its mels go."""
