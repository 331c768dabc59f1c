"""The command line.

    main         `melcheck`: help, exit codes, one command a module
    output       stdout and stderr, JSON, tables, progress
    arguments    options that several commands share
    check        `melcheck check`: copy synthesis, judged
    check_clips  its round trips, one check for each clip and vocoder
    check_text   its answer
    check_cache  what its answer has of stored mels
    quick        its answer for `--quick`
    audit        `melcheck audit`: a corpus
    compare      `melcheck compare`: two mels
    compare_folders   two folders of mels
    diagnose     `melcheck diagnose`: the recipe of a mel
    handshake    `melcheck handshake`: stages of the user's against the reference's
    stages       `melcheck stages`: two loops, the first stage that differs
    bench        `melcheck bench`: speed
    info         `melcheck info`: versions, decoder, devices, weights
    fetch        `melcheck fetch`: the official weights

The module of a command has `add_options(parser)` and `run(options, terminal) -> Answer`. It prints
nothing, and imports nothing heavy before `run`, so that `melcheck --help` answers at once.
"""
