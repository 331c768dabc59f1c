"""A corpus: every clip's round trip, audio and cached mel as a row of a table, and one verdict.

model         settings, clips, rows: what travels between all of it
rows          the rows of clips, whichever engine asks
audio_faults  what is wrong with the audio itself
local         the local engine: processes of this machine
"""
