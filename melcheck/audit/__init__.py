"""A corpus: every clip's round trip, audio and cached mel as a row of a table, and one verdict.

model         the row, the settings, and what an engine is
ray_engine    the engine that runs it on a Ray cluster
causes        which clips fail, and what to do
intervals     how sure a share or a quantile is; drawing until it is decided
distribution  quantiles and histograms in bounded memory
verdict       the verdict on a corpus, from its rows
summary       the verdict in words and tables
worst         the worst clips, decoded once more to be shown
page          the HTML page
"""
