"""The same figures in less time, or for longer audio.

many_clips        many files, computed side by side
long_audio        a long file, computed in chunks
audio_blocks      a long file, read in blocks
chunked_decoding  how far a vocoder looks, and decoding that continues from chunk to chunk
optimised         a Vocos with the same weights, computed faster; precisions of products
stft_distance     distance of two waveforms, computed in blocks
optimised_layers  its backbone, mel and linear layers
"""
