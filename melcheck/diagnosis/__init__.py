"""Why is this mel or this waveform wrong? One module for each question.

causes          the causes: code, title, fix; `Explanation` and `Finding`
result          `Diagnosis`: verdict, causes, evidence and the message
diagnose        which recipe made this mel of this waveform?
identify        what does a mel show without its audio?
handshake       does a front end extract the mels that a vocoder expects?
stored_mels     is a stored mel still the mel of its audio?
batch           what does a collated batch show?
round_trip      why did a round trip fail?
waveform        what was done to a waveform?
stages          which stage of two loops is the first to differ?
recipe_search/  the search behind `diagnose`
waveform_tests/ the tests behind `waveform` and `round_trip`
"""
