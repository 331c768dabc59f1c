"""The search for the recipe that made a mel.

mel_values          floor, ceiling, padding, broken values and storage of an array
mel_axes            transposed or flipped axes, a missing or a second logarithm
recipe_changes      the bank of single changes of a recipe
audio_readings      how the audio may have been read: rates, hops, delays, profiles
damaged_audio       the same audio clipped, offset, narrowed, aliased or mixed
kaldi               the filterbank of Kaldi, which is no recipe
spectra             spectra at any place of a waveform
ranking             all hypotheses on few cells; one number tuned
fitting             one hypothesis in full, by least squares
search              the order in which all this is tried
choice              the simplest hypothesis that explains the mel
scale_and_offset    what slope and offset mean: logarithm, gain, normalisation
unexplained_cells   what the chosen hypothesis leaves: edges, floor, ceiling, masks
"""
