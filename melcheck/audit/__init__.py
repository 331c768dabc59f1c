"""A corpus: every clip's round trip, audio and cached mel as a row of a table, and one verdict.

model         the row, the settings, and what an engine is
sources       the clips of a corpus, one after the other, and at random
rows          makes the row of a clip; knows no engine
arithmetic    in which arithmetic a clip is computed first, and where the plain one decides
audio_faults  what is wrong with the audio itself
local         the engine of this machine: processes
ray_engine    the engine of a cluster
temporary     a folder for temporary files that goes also where who made it was killed
store         the table on disk, and what is known of an earlier run
drop          the clips to leave out, and the source without them
progress      how far it is
run           from the source to the verdict
causes        which clips fail, and what to do
intervals     how sure a share or a quantile is; drawing until it is decided
distribution  quantiles and histograms in bounded memory
verdict       the verdict on a corpus, from its rows
summary       the verdict in words and tables
worst         the worst clips, decoded once more to be shown
page          the HTML page
"""
