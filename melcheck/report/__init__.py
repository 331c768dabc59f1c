"""The report of a run: terminal table, HTML page, Markdown, JSON, comparison with a baseline.

model        the data of a report: cases, metrics, gates, provenance
build        makes that data from round trips
table        the table in the terminal
text_table   a plain table of texts
text         sentences, and positions of ticks, shared by HTML and Markdown
html         the page, from `melcheck/templates`
markdown     the summary of a CI job
media        pictures and audio of a case, small enough for the page
json_format  writes and reads the versioned JSON
files        writes a report in the format that its suffix names
store        the folder in which the processes of pytest-xdist gather their cases
accept       writes the misses that a project accepts
baseline     compares cases with an earlier report
"""
