"""The pytest plugin.

plugin     hooks: markers, the plan of a run, its cases
options    the `--mel-*` options and their ini keys
plan       from the options to `melcheck.plan.Plan`
cases      what the tests of a run share: the plan, the round trips
fixtures   the `mel_*` fixtures
goldens    `Golden`, which compares statistics through pytest-regressions
terminal   the table, the notes and the annotations at the end of a run
end_of_run accepted misses, and the pictures of the last runs
reports    report files, and the comparison with a baseline
"""
