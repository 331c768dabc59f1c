"""How fast the loop runs, and whether code has become slower.

cases          stages, sizes, precisions and modes that are measured
measure        time, memory and fraction of the attainable of one case
roofline       operations and bytes of a Vocos, and the best rates of this machine
plots          pictures of throughput and of the fraction of the attainable
paired_timing  two callables timed in turns
speed_gate     is one callable slower than another, by more than is allowed?
"""
