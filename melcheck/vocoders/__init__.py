"""Load and run a vocoder.

base             what a vocoder is: protocol, provenance, wrappers, checks of its input
agreement        do two decodings of one mel agree but for rounding?
load             from a name to a vocoder on a device: `load_vocoder`
vocos            a loaded Vocos
griffin_lim      the baseline without training
from_code        the user's own code
hub              files from the Hugging Face cache or hub, at one commit
weights          the two files of a vocoder, their hashes and what is wrong with them
vocos_config     what a `config.yaml` may say
checkpoint       from the two files to a `vocos.Vocos` that is exactly what they describe
phase_head       the embedded vocoder's head, which predicts magnitudes and retrieves phases
phase_retrieval  phases for given magnitudes, by projections
overlap_add      windowed frames, their spectra, and back
"""
